"""New samples where a histogram along the ray is high: nerfacc's two kernels for that in plain torch.

Batched values are [R, K]; packed ones are vectors with the first place and the count of each ray.

Legend: R rays, K edges of a ray, S new samples of a ray.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamprop.threestudio.compat.nerfacc.packed import RaySegmentsSpec, gather, spread


def _table(
    spec: RaySegmentsSpec, values: Tensor | None = None, fill: float = torch.inf
) -> tuple[Tensor, Tensor]:
    """Values [R, K] and the count [R] of each ray."""
    values = spec.vals if values is None else values
    assert values is not None
    if values.dim() > 1:
        flat = values.reshape(-1, values.shape[-1])
        return flat, torch.full((len(flat),), flat.shape[1], device=flat.device)
    assert spec.chunk_starts is not None and spec.chunk_cnts is not None
    return spread(values, spec.chunk_starts, spec.chunk_cnts, fill)[0], spec.chunk_cnts


@torch.no_grad()
def importance_sampling(
    ray_segments: RaySegmentsSpec, cdfs: Tensor, n_intervals_per_ray: Tensor | int, stratified: bool
) -> list[RaySegmentsSpec]:
    """Intervals of equal probability: `u_s = u_0 + (s + b) (u_K - u_0) / S`, `t_s = cdf^-1(u_s)`, edges half-way.

    Args:
        ray_segments: The old edges.
        cdfs: Cumulative probability at each.
        n_intervals_per_ray: S, one number, or one for each ray [R].
        stratified: Whether b is drawn once a ray from the device's generator; otherwise it is 1/2.

    Returns:
        New edges, and new samples between them; packed where S differs by ray.
    """
    edges, counts = _table(ray_segments)
    chances, _ = _table(ray_segments, cdfs)
    last = (counts - 1).clamp_min(0)[:, None]
    many = isinstance(n_intervals_per_ray, Tensor)
    number = n_intervals_per_ray.long() if isinstance(n_intervals_per_ray, Tensor) else n_intervals_per_ray
    widest = int(number.max()) if isinstance(number, Tensor) else number
    size = number[:, None] if isinstance(number, Tensor) else number
    floor, ceil = chances[:, :1], chances.gather(1, last)
    bias = torch.rand_like(floor) if stratified else torch.full_like(floor, 0.5)
    place = torch.arange(widest, device=edges.device)
    u = floor + (place + bias) * (ceil - floor) / size  # [R, S]
    right = torch.searchsorted(chances.contiguous(), u.contiguous(), right=True)
    high = torch.minimum(right, last)
    low = (high - 1).clamp_min(0)
    u0, u1, t0, t1 = (t.gather(1, at) for t in (chances, edges) for at in (low, high))
    flat = u1 - u0 < 1e-10
    share = torch.where(flat, 0.5, (u - u0) / (u1 - u0).masked_fill(flat, 1.0))
    t = t0 + share * (t1 - t0)
    new = _edges(t, size, edges[:, :1], edges.gather(1, last))
    if not many:
        assert ray_segments.vals is not None
        shape = ray_segments.vals.shape[:-1] if ray_segments.vals.dim() > 1 else (len(t),)
        return [
            RaySegmentsSpec(vals=new.reshape(*shape, -1)),
            RaySegmentsSpec(vals=t.reshape(*shape, -1)),
        ]
    assert isinstance(number, Tensor)
    return [_packed(new, torch.where(number > 0, number + 1, 0), True), _packed(t, number, False)]


def _edges(t: Tensor, size: Tensor | int, low: Tensor, high: Tensor) -> Tensor:
    """Edges [R, S + 1] half-way between samples [R, S], as far outside the first and last as inside."""
    middle = (t[:, 1:] + t[:, :-1]) / 2
    if t.shape[1] < 2:  # one interval: all there is
        return torch.cat([low, high], dim=1).expand(len(t), 2) if t.shape[1] else low.expand(len(t), 1)
    out = torch.cat([torch.maximum(2 * t[:, :1] - middle[:, :1], low), middle, t[:, -1:]], dim=1)
    if not isinstance(size, Tensor):
        out[:, -1:] = torch.minimum(2 * t[:, -1:] - middle[:, -1:], high)
        return out
    end = (size - 1).clamp_min(0)  # the last sample of each ray [R, 1]
    tail = 2 * t.gather(1, end) - middle.gather(1, (end - 1).clamp_min(0))
    tail = torch.where(size > 1, torch.minimum(tail, high), high)
    out = out.scatter(1, size.clamp_min(1), tail)
    out[:, :1] = torch.where(size > 1, out[:, :1], low)
    return out


def _packed(table: Tensor, counts: Tensor, edges: bool) -> RaySegmentsSpec:
    starts = counts.cumsum(0) - counts
    real = torch.arange(table.shape[1], device=table.device) < counts[:, None]
    total = int(counts.sum())
    spec = RaySegmentsSpec(
        vals=gather(table, real, starts, total),
        chunk_starts=starts,
        chunk_cnts=counts,
        ray_indices=torch.arange(len(counts), device=counts.device).repeat_interleave(counts),
    )
    if edges:
        first, last = (torch.zeros(total, dtype=torch.bool, device=table.device) for _ in range(2))
        some = counts > 0
        first[starts[some]], last[(starts + counts - 1)[some]] = True, True
        spec.is_left, spec.is_right = ~last, ~first
    return spec


@torch.no_grad()
def searchsorted(query: RaySegmentsSpec, key: RaySegmentsSpec) -> list[Tensor]:
    """Places of the keys on both sides: `key[left] <= query < key[right]`, cut to the ray's first and last key.

    Args:
        query: Values to look for.
        key: Ascending values of each ray.

    Returns:
        Left and right places in the shape of the queries: within the ray for batched queries, else in the vector.
    """
    keys, counts = _table(key)
    values, sizes = _table(query)
    last = (counts - 1).clamp_min(0)[:, None]
    right = torch.searchsorted(keys.contiguous(), values.contiguous(), right=True)
    right = torch.minimum(right, last)
    left = (right - 1).clamp_min(0)
    assert query.vals is not None
    if query.vals.dim() > 1:
        return [left.reshape(query.vals.shape), right.reshape(query.vals.shape)]
    assert query.chunk_starts is not None
    base = (
        key.chunk_starts
        if key.chunk_starts is not None
        else torch.arange(len(keys), device=keys.device) * keys.shape[1]
    )
    real = torch.arange(values.shape[1], device=values.device) < sizes[:, None]
    return [gather(at + base[:, None], real, query.chunk_starts, len(query.vals)) for at in (left, right)]
