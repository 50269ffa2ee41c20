"""Volume rendering of W stacked fields in one go; compositing by nerfacc.

    C = sum_k T_k alpha_k c_k + T_end C_background,  alpha_k = 1 - exp(-sigma_k dt),  T_k = prod_{j<k} (1 - alpha_j)

Rays are cut to the ball that holds the scene and sampled at even steps, each ray shifted by one draw. Samples in
cells that are next to empty are left out before the field is asked: what is left, a few per cent of a finished scene,
is padded to one length for all states. That is why the dense path needs no occupancy structure of its own.

Legend: W states, B pictures a state, N = W B, Q rays a state, S samples a ray, M kept samples of the fullest state.
"""

from __future__ import annotations

import math

import nerfacc
from torch import Tensor

from dreamprop.scenes.cameras import rays
from dreamprop.scenes.field import Field, Tensors
from dreamprop.scenes.ray_marching import march
from dreamprop.scenes.ray_weights import ray_weights
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.shading import shade

PRUNE_PARTS = 32
"""Parts of the ball's diameter, of which a cell is as opaque as one that `prune_alpha` speaks of."""


def prune_density(prune_alpha: float, radius: float) -> float:
    """The density, in 1 / length, at which matter along a 1/32 of the ball's diameter has an opacity.

        alpha = 1 - exp(-sigma 2 radius / 32)

    It does not depend on how many samples a ray has: what is skipped is the same at any quality, but for the size of
    the cells, which are smaller for pictures of a result (`Scene.final_buffers`). A ray loses an optical depth of at
    most `-32 log(1 - alpha)`, about 0.3 at alpha = 0.01.
    """
    return -math.log1p(-prune_alpha) * PRUNE_PARTS / (2 * radius)


def render(
    field: Field,
    params: Tensors,
    buffers: Tensors,
    spec: PictureSpec,
    *,
    samples: int,
    prune_alpha: float = 0.0,
    depth: bool = False,
) -> Rendered:
    """Render the pictures of W states.

    Args:
        field: what the parameters mean.
        params, buffers: stacked, [W, ...].
        spec: which ones; how its `shift` moves samples, `march` says.
        samples: along the ball's diameter, of results and of drifts alike.
        prune_alpha: cells that are emptier than this opacity are skipped, see `prune_density`.
        depth: whether to measure depth.
    """
    count, shading = len(spec.shift), spec.shading
    origins, directions = rays(spec.cameras, spec.height, spec.width)
    origins = origins[:, None].expand_as(directions).reshape(count, -1, 3)
    directions = directions.reshape(count, -1, 3)
    occupancy_mask = None
    if prune_alpha > 0:
        occupancy_mask = field.occupancy_mask(params, buffers, prune_density(prune_alpha, field.radius))
    marched = march(origins, directions, spec.shift, field.radius, samples, occupancy_mask)
    found = field.query(params, marched.points, normals=spec.orientation or shading is not None)

    total = count * origins.shape[1]
    dense = found.density.new_zeros(count, origins.shape[1] * samples + 1)
    dense = dense.scatter(1, marched.index, found.density * marched.valid)[:, :-1]
    weights = ray_weights(dense.reshape(total, samples), marched.step)
    opacity = nerfacc.accumulate_along_rays(weights, None)
    inside = weights.view(count, -1).gather(1, marched.index.clamp(max=dense.shape[1] - 1)) * marched.valid

    def along_rays(values: Tensor) -> Tensor:
        flat = values.flatten(0, 1)
        return nerfacc.accumulate_along_rays(inside.flatten(), flat, marched.ray.flatten(), total)

    def picture(rows: Tensor) -> Tensor:
        return rows.view(-1, spec.height, spec.width, rows.shape[-1]).permute(0, 3, 1, 2)

    color = found.color
    if shading is not None:
        assert found.normal is not None
        color = shade(shading, color, found.normal, marched.points, marched.ray // (spec.height * spec.width))
    penalty = None
    if spec.orientation:
        assert found.normal is not None
        facing = (found.normal * directions.reshape(-1, 3)[marched.ray]).sum(-1).clamp(min=0).square()
        seen = (opacity.detach().view(count, -1) > 0).sum(1).clamp(min=1)
        penalty = (inside.detach() * facing).sum(1) / seen
    return Rendered(
        color=picture(along_rays(color)),
        opacity=picture(opacity),
        depth=picture(along_rays(marched.distance[..., None])) if depth else None,
        orientation=penalty,
    )
