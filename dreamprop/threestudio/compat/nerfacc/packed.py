"""nerfacc's kernels on any device: samples of all rays in one vector, told apart by where each ray's begin.

Same names and arguments as `nerfacc.cuda`, so that nerfacc's own functions, estimators and gradients run on them.
Gradients are made of ordinary operations and can be differentiated again.

Legend: R rays, S samples of all rays, K samples of the longest ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RaySegmentsSpec:
    """What nerfacc hands to its kernels and takes from them: values [S] with a first place and a count [R] by ray."""

    vals: Tensor | None = None
    is_left: Tensor | None = None
    is_right: Tensor | None = None
    is_valid: Tensor | None = None
    chunk_starts: Tensor | None = None
    chunk_cnts: Tensor | None = None
    ray_indices: Tensor | None = None


@torch.no_grad()
def pack_info(ray_indices: Tensor, n_rays: int | None = None) -> Tensor:
    """First place and count [R, 2] by ray, from the ray [S] of each sample.

    Args:
        ray_indices: The ray of each sample [S], ascending.
        n_rays: R; the last sample's ray plus one where not given.
    """
    if ray_indices.dim() != 1:
        raise ValueError(f"ray_indices must be a vector, got shape {tuple(ray_indices.shape)}")
    if n_rays is None:
        n_rays = int(ray_indices.max()) + 1 if len(ray_indices) else 0
    counts = ray_indices.new_zeros(n_rays).index_add_(0, ray_indices, torch.ones_like(ray_indices))
    return torch.stack([counts.cumsum(0, dtype=counts.dtype) - counts, counts], dim=-1)


def spread(values: Tensor, starts: Tensor, counts: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    """Samples [S] as a table [R, K] filled up behind each ray's last, and the places [R, K] that are real."""
    longest = int(counts.max()) if len(counts) else 0
    column = torch.arange(longest, device=values.device)
    real = column < counts[:, None]
    place = (starts[:, None] + column).clamp(max=max(len(values) - 1, 0))
    table = values[place] if len(values) else values.new_zeros(place.shape)
    return table.masked_fill(~real, fill), real


def gather(table: Tensor, real: Tensor, starts: Tensor, size: int) -> Tensor:
    """The inverse of `spread`: samples [S] out of a table [R, K]."""
    column = torch.arange(table.shape[1], device=table.device)
    place = (starts[:, None] + column)[real]
    return table.new_zeros(size).index_put((place,), table[real])


def _scan(
    starts: Tensor, counts: Tensor, values: Tensor, fold: Callable[[Tensor], Tensor], fill: float
) -> Tensor:
    table, real = spread(values, starts, counts, fill)
    return gather(fold(table), real, starts, len(values))


def _sums(table: Tensor, exclusive: bool, backward: bool) -> Tensor:
    if backward:
        table = table.flip(-1)
    if exclusive:  # shifted rather than subtracted: the first is exactly 0, and nothing cancels
        table = torch.nn.functional.pad(table, (1, 0))[:, :-1]
    total = table.cumsum(-1)
    return total.flip(-1) if backward else total


def inclusive_sum(starts: Tensor, counts: Tensor, inputs: Tensor, normalize: bool, backward: bool) -> Tensor:
    """`y_i = sum_{j <= i} x_j` along each ray, or from the ray's end for the backward pass."""
    out = _scan(starts, counts, inputs, lambda t: _sums(t, False, backward), 0.0)
    return _normalized(starts, counts, inputs, out) if normalize else out


def exclusive_sum(starts: Tensor, counts: Tensor, inputs: Tensor, normalize: bool, backward: bool) -> Tensor:
    """`y_i = sum_{j < i} x_j` along each ray, or from the ray's end for the backward pass."""
    out = _scan(starts, counts, inputs, lambda t: _sums(t, True, backward), 0.0)
    return _normalized(starts, counts, inputs, out) if normalize else out


def _normalized(starts: Tensor, counts: Tensor, inputs: Tensor, sums: Tensor) -> Tensor:
    table, real = spread(inputs, starts, counts, 0.0)
    total = table.sum(-1, keepdim=True).clamp_min(1e-10).expand_as(table)
    return sums / gather(total, real, starts, len(inputs)).clamp_min(1e-10)


def inclusive_prod_forward(starts: Tensor, counts: Tensor, inputs: Tensor) -> Tensor:
    """`y_i = prod_{j <= i} x_j` along each ray."""
    return _scan(starts, counts, inputs, lambda t: t.cumprod(-1), 1.0)


def exclusive_prod_forward(starts: Tensor, counts: Tensor, inputs: Tensor) -> Tensor:
    """`y_i = prod_{j < i} x_j` along each ray."""
    return _scan(
        starts,
        counts,
        inputs,
        lambda t: torch.nn.functional.pad(t, (1, 0), value=1.0)[:, :-1].cumprod(-1),
        1.0,
    )


def inclusive_prod_backward(
    starts: Tensor, counts: Tensor, inputs: Tensor, outputs: Tensor, grad_outputs: Tensor
) -> Tensor:
    """`sum_{j >= i} g_j y_j / x_i`, with nerfacc's guard against a zero factor."""
    sums = inclusive_sum(starts, counts, grad_outputs * outputs, False, True)
    return sums / inputs.clamp_min(1e-10)


def exclusive_prod_backward(
    starts: Tensor, counts: Tensor, inputs: Tensor, outputs: Tensor, grad_outputs: Tensor
) -> Tensor:
    """`sum_{j > i} g_j y_j / x_i`, with nerfacc's guard against a zero factor."""
    sums = exclusive_sum(starts, counts, grad_outputs * outputs, False, True)
    return sums / inputs.clamp_min(1e-10)
