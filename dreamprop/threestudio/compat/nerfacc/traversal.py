"""Ray marching through occupancy grids: nerfacc's two grid kernels in plain torch.

Legend: R rays, G grids, K steps along a ray, S samples and E edges of all rays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamprop.threestudio.compat.nerfacc.packed import RaySegmentsSpec

CHUNK = 1 << 21
"""Steps of all rays that are looked at together, for the memory's sake."""


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Tensor,
    rays_d: Tensor,
    aabbs: Tensor,
    near_plane: float,
    far_plane: float,
    miss_value: float,
) -> list[Tensor]:
    """Where rays [R, 3] enter and leave boxes [G, 6], both [R, G], and whether they meet, by slabs.

    Args:
        rays_o: Origins [R, 3].
        rays_d: Directions [R, 3].
        aabbs: Lower and upper corner of each box [G, 6].
        near_plane: Entries are not before it.
        far_plane: Exits are not behind it.
        miss_value: Entry and exit of a ray that misses a box.
    """
    origin, direction = rays_o[:, None], rays_d[:, None]  # [R, 1, 3]
    low, high = aabbs[None, :, :3], aabbs[None, :, 3:]  # [1, G, 3]
    one, two = (low - origin) / direction, (high - origin) / direction
    # a ray parallel to a slab is in it for ever, or never
    parallel = (direction == 0).expand_as(one)
    inside = (low <= origin) & (origin <= high)
    first = (
        torch.minimum(one, two)
        .masked_fill(parallel & inside, -torch.inf)
        .masked_fill(parallel & ~inside, torch.inf)
    )
    last = (
        torch.maximum(one, two)
        .masked_fill(parallel & inside, torch.inf)
        .masked_fill(parallel & ~inside, -torch.inf)
    )
    enter, leave = first.amax(-1), last.amin(-1)
    hits = (enter <= leave) & (leave > 0)
    enter, leave = enter.clamp_min(near_plane), leave.clamp_max(far_plane)
    return [torch.where(hits, enter, miss_value), torch.where(hits, leave, miss_value), hits]


@torch.no_grad()
def traverse_grids(
    rays_o: Tensor,
    rays_d: Tensor,
    rays_mask: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    t_sorted: Tensor,
    t_indices: Tensor,
    hits: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    compute_intervals: bool,
    compute_samples: bool,
    compute_terminate_planes: bool,
    traverse_steps_limit: int,
    over_allocate: bool,
) -> tuple[RaySegmentsSpec, RaySegmentsSpec, Tensor]:
    """Steps of equal length along rays, those whose middle is in an occupied cell.

    Step k of a ray is [near + k dt, near + (k + 1) dt], so where a ray enters a grid does not move its steps, and all
    can be looked at together. Between two of its crossings [R, 2 G] a ray is in the innermost grid it has entered.

    Args:
        rays_o: Origins [R, 3].
        rays_d: Directions [R, 3].
        rays_mask: The rays [R] to march.
        binaries: Occupancy [G, X, Y, Z].
        aabbs: Lower and upper corner of each grid [G, 6].
        t_sorted: Entries and exits of the ray in ascending order [R, 2 G].
        t_indices: Which grid's each is [R, 2 G]; exits are counted from G.
        hits: Whether the ray meets the grid [R, G].
        near_planes: Where the ray's steps begin [R].
        far_planes: Where they end [R].
        step_size: Length of a step; must be positive.
        cone_angle: Must be 0: steps that grow need nerfacc's own kernels.
        compute_intervals: Taken for nerfacc's sake; they always are.
        compute_samples: Likewise.
        compute_terminate_planes: Likewise.
        traverse_steps_limit: Must not be positive: no limit.
        over_allocate: Must be false.

    Returns:
        Edges [E] of the steps, which neighbours share; their middles [S]; and where each ray ended [R].

    Raises:
        ValueError: If one of the settings is not what this marches.
    """
    if cone_angle != 0 or step_size <= 0 or traverse_steps_limit > 0 or over_allocate:
        raise ValueError(
            "marching without nerfacc's CUDA kernels needs cone_angle 0, a positive step and no step limit, got "
            f"{cone_angle}, {step_size}, {traverse_steps_limit}; use a CUDA device with the CUDA toolkit"
        )
    size = len(aabbs)
    valid, level = _segments(t_indices, hits, size)
    first = torch.maximum(t_sorted[:, :-1], near_planes[:, None])  # [R, 2 G - 1]
    last = torch.minimum(t_sorted[:, 1:], far_planes[:, None])
    valid &= (first < last) & rays_mask[:, None]
    begin = torch.where(valid, first, torch.inf).amin(-1)  # [R]
    end = torch.where(valid, last, -torch.inf).amax(-1)
    some = valid.any(-1)
    begin, end = torch.where(some, begin, near_planes), torch.where(some, end, near_planes)
    # the first step whose middle is behind the entry (or the one before it, by rounding), and likewise the exit
    start = ((begin - near_planes) / step_size - 0.5).ceil().long().sub(1).clamp_min(0)
    stop = ((end - near_planes) / step_size - 0.5).ceil().clamp_min(0).long()
    longest = int((stop - start).max()) + 2 if len(start) else 0
    rays: list[Tensor] = []
    steps: list[Tensor] = []
    for part in torch.arange(len(start), device=start.device).split(max(1, CHUNK // max(longest, 1))):
        number = start[part, None] + torch.arange(longest, device=start.device)  # [r, K]
        middle = near_planes[part, None] + (number + 0.5) * step_size
        inside, grid = torch.zeros_like(number, dtype=torch.bool), torch.zeros_like(number)
        for segment in range(2 * size - 1):
            begins, ends = first[part, segment, None], last[part, segment, None]
            here = valid[part, segment, None] & (middle >= begins) & (middle < ends)
            inside |= here
            if size > 1:
                grid = torch.where(here, level[part, segment, None], grid)
        ray, column = inside.nonzero(as_tuple=True)
        at = rays_o[part][ray] + rays_d[part][ray] * middle[ray, column, None]
        full = _occupied(at, grid[ray, column], binaries, aabbs)
        rays.append(part[ray[full]])
        steps.append(number[ray[full], column[full]])
    ray_of, step = torch.cat(rays or [start]), torch.cat(steps or [start])
    intervals, samples = _pack(ray_of, step, near_planes, step_size, len(rays_o))
    return intervals, samples, near_planes + stop * step_size


def _segments(t_indices: Tensor, hits: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Between two crossings: whether the ray is in a grid, and in which, both [R, 2 G - 1]."""
    grid, entering = t_indices % size, t_indices < size
    here, after = slice(None, -1), slice(1, None)
    # after an entry the ray is in that grid; after an exit, in the one that it leaves next, if it leaves one
    level = torch.where(entering[:, here], grid[:, here], grid[:, after])
    valid = (entering[:, here] | ~entering[:, after]) & hits.gather(1, grid[:, here]) & hits.gather(1, level)
    return valid, level


def _occupied(points: Tensor, grid: Tensor, binaries: Tensor, aabbs: Tensor) -> Tensor:
    low, high = aabbs[grid, :3], aabbs[grid, 3:]
    shape = torch.tensor(binaries.shape[1:], device=points.device)
    cell = ((points - low) / (high - low) * shape).long()
    x, y, z = torch.minimum(cell.clamp_min(0), shape - 1).unbind(-1)
    return binaries[grid, x, y, z]


def _pack(
    ray: Tensor, step: Tensor, near: Tensor, step_size: float, rays: int
) -> tuple[RaySegmentsSpec, RaySegmentsSpec]:
    """Edges and middles of the steps [S] of rays, in order."""
    counts = torch.bincount(ray, minlength=rays)
    samples = RaySegmentsSpec(
        vals=near[ray] + (step + 0.5) * step_size,
        chunk_starts=counts.cumsum(0) - counts,
        chunk_cnts=counts,
        ray_indices=ray,
        is_valid=torch.ones_like(ray, dtype=torch.bool),
    )
    # a step that does not go on from the one before it has a left edge of its own
    fresh = torch.ones_like(ray, dtype=torch.bool)
    fresh[1:] = (ray[1:] != ray[:-1]) | (step[1:] != step[:-1] + 1)
    right = (1 + fresh.long()).cumsum(0) - 1  # place of each right edge
    total = int(right[-1]) + 1 if len(ray) else 0
    values = near.new_empty(total)
    owner = torch.empty(total, dtype=torch.long, device=ray.device)
    is_left, is_right = (torch.zeros(total, dtype=torch.bool, device=ray.device) for _ in range(2))
    values[right - 1], values[right] = near[ray] + step * step_size, near[ray] + (step + 1) * step_size
    owner[right - 1], owner[right] = ray, ray
    is_left[right - 1], is_right[right] = True, True
    edges = torch.bincount(owner, minlength=rays)
    intervals = RaySegmentsSpec(
        vals=values,
        is_left=is_left,
        is_right=is_right,
        chunk_starts=edges.cumsum(0) - edges,
        chunk_cnts=edges,
        ray_indices=owner,
    )
    return intervals, samples
