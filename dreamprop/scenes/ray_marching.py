"""Points along rays: where in the ball that holds the scene a field is looked at.

Legend: W states, Q rays a state, S samples a ray, M kept samples of the fullest state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Points along rays, the same number for every state."""

    index: Tensor
    """[W, M] place among the state's Q S samples; Q S where a row is padding"""
    ray: Tensor
    """[W, M] ray of the sample, counted over all states"""
    distance: Tensor
    """[W, M] from the camera"""
    points: Tensor
    """[W, M, 3]"""
    valid: Tensor
    """[W, M] bool: not padding"""
    step: float
    """Length that a sample stands for."""


def march(
    origins: Tensor,
    directions: Tensor,
    shift: Tensor,
    radius: float,
    samples: int,
    occupancy_mask: Tensor | None,
) -> Samples:
    """Points along rays inside the ball, without those in empty cells.

    Args:
        origins, directions: [W, Q, 3], unit directions.
        shift: [W, Q] in [0, 1): where in its interval each sample of a ray lies.
        radius: of the ball.
        samples: S along the diameter.
        occupancy_mask: [W, C, C, C] bool, or None.
    """
    count, total = origins.shape[:2]
    step = 2 * radius / samples
    middle = -(origins * directions).sum(-1)
    square = radius**2 - origins.square().sum(-1) + middle.square()
    half = square.clamp(min=0).sqrt()
    # from outside in; never behind the camera; a ray that misses has near = far
    near, far = (middle - half).clamp(min=0), middle + half
    ticks = torch.arange(samples, device=origins.device)
    t = near[..., None] + (ticks + shift[..., None]) * step  # [W, Q, S]
    keep = t < far[..., None]
    if occupancy_mask is not None:
        cells = occupancy_mask.shape[-1]
        place = torch.arange(count, device=t.device, dtype=torch.int32)[:, None, None]
        for axis in range(3):
            start = (origins[..., axis, None] + radius) * (cells / (2 * radius))
            along = directions[..., axis, None] * (cells / (2 * radius))
            place = place * cells + torch.addcmul(start, t, along).to(torch.int32).clamp_(0, cells - 1)
        keep = keep & occupancy_mask.reshape(-1)[place]
    flat = keep.reshape(-1).nonzero()[:, 0]
    length = total * samples
    if count == 1 and len(flat):
        index = flat[None]
    else:
        kept = keep.flatten(1).sum(1)
        owner = torch.div(flat, length, rounding_mode="floor")
        slot = torch.arange(len(flat), device=flat.device) - (kept.cumsum(0) - kept)[owner]
        index = flat.new_full((count, max(1, int(kept.max()))), length)
        index[owner, slot] = flat - owner * length
    valid = index < length
    ray = torch.div(index.clamp(max=length - 1), samples, rounding_mode="floor")
    ray = ray + torch.arange(count, device=ray.device)[:, None] * total
    tick = index % samples
    distance = near.reshape(-1)[ray] + (tick + shift.reshape(-1)[ray]) * step
    points = torch.addcmul(origins.reshape(-1, 3)[ray], distance[..., None], directions.reshape(-1, 3)[ray])
    return Samples(index, ray, distance, points, valid, step)
