"""Gaussians that are cloned, split, pruned, and made transparent again: adaptive density control, arXiv:2308.04079,
section 5.2.

What is counted in between is written by updates, from drifts that were accepted: of each Gaussian the norms of the
gradient of its middle on the pictures, in how many pictures it was seen, and how far it reached. Parameters and
moments follow one index map (`dreamprop.optim.resize`).

Legend: N Gaussians before, M after, W states, B pictures a state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.optim.moments import MomentKey
from dreamprop.optim.resize import resize_moments, resize_params
from dreamprop.scenes.field import Tensors
from dreamprop.scenes.gaussians.config import GaussiansConfig
from dreamprop.scenes.gaussians.names import GRADIENT, NAMES, OPACITY, RADIUS, ROTATION, SCALING, SEEN, XYZ
from dreamprop.scenes.gaussians.projection import rotation

HALVES = 2
"""Gaussians that one is split into."""
SHRINK = math.log(0.8 * HALVES)
"""How much smaller the parts are, as a logarithm."""


@dataclass(frozen=True)
class ScreenSpace:
    """Where Gaussians were seen in the pictures of W states: what is counted of a drift."""

    value: Tensor
    """[W, B, N, 2] their middles in pixels, in the graph."""
    radii: Tensor
    """[W, B, N] how far they reached, in pixels; 0 where they were not seen."""
    size: tuple[int, int]
    """Pixels across and down."""

    def told(self, grad: Tensor) -> Tensors:
        """What is counted, [W, N] by name, given the gradient [W, B, N, 2] of losses that are means over pictures.

        The gradient of a picture is B times its part of the mean's, and a step of 1 is half a side of the picture.
        """
        batch, half = grad.shape[1], [side / 2 for side in self.size]
        seen = self.radii > 0
        norms = torch.stack([grad[..., 0] * half[0], grad[..., 1] * half[1]], -1).norm(dim=-1) * batch
        return {
            GRADIENT: (norms * seen).sum(1),
            SEEN: seen.sum(1).to(grad.dtype),
            RADIUS: (self.radii / max(self.size)).amax(1).to(grad.dtype),
        }


def counters(count: int, like: Tensor) -> Tensors:
    """Buffers of nothing counted yet, for so many Gaussians."""
    return {name: like.new_zeros(count) for name in (GRADIENT, SEEN, RADIUS)}


def count(buffers: Tensors, told: Mapping[str, Tensor]) -> Tensors:
    """Buffers with what a drift told: sums, and the largest radius."""
    sums = {name: buffers[name] + told[name] for name in (GRADIENT, SEEN)}
    return {**buffers, **sums, RADIUS: torch.maximum(buffers[RADIUS], told[RADIUS])}


def densify(
    params: Tensors, moments: Tensors, buffers: Tensors, config: GaussiansConfig, generator: torch.Generator
) -> tuple[Tensors, Tensors, Tensors]:
    """Prune Gaussians that are faint or too large, clone small ones and split large ones that are pulled hard.

    A clone is a copy in its place. The parts of a split one are drawn from it and smaller by 1.6. Both begin with
    moments of zero, and all counts begin anew.

    Args:
        params, moments, buffers: of one state.
        config: what is faint, large, and hard.
        generator: of the step, for the places of split Gaussians.

    Returns:
        Parameters, moments and buffers of M Gaussians; at least the most opaque one is kept.
    """
    opacity, largest = params[OPACITY].sigmoid().squeeze(-1), params[SCALING].amax(1).exp()
    pulled = buffers[GRADIENT] / buffers[SEEN].clamp(min=1)  # [N]
    hard = pulled > config.densify_grad_threshold
    faint = opacity < config.min_opacity
    split = hard & ~faint & (largest > config.split_scale)
    clone = hard & ~faint & ~split
    large = ((largest > config.max_scale) | (buffers[RADIUS] > config.max_screen)) & ~split & ~clone
    keep = ~(faint | large)
    keep[opacity.argmax()] = True
    room = config.max_points - int(keep.sum())
    chosen = split | clone
    if int(chosen.sum()) > room:
        order = torch.where(chosen, pulled, -1).argsort(descending=True, stable=True)
        chosen = torch.zeros_like(chosen)
        chosen[order[: max(room, 0)]] = True
        split, clone = split & chosen, clone & chosen
    index, fresh, parts = index_map(keep, clone, split)
    names = [name for name in params if name in NAMES]
    values = _parts(params, index, parts, generator)
    params = resize_params(params, names, index, values, parts)
    moments = resize_moments(moments, names, index, fresh)
    return params, moments, {**buffers, **counters(len(index), buffers[GRADIENT])}


def index_map(keep: Tensor, clone: Tensor, split: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The old row of each new one: those that stay, then clones, then the parts of those that are split.

    Args:
        keep, clone, split: [N] bool; what is split stays no longer.

    Returns:
        index [M]; which are fresh [M]: clones and parts; which are parts [M].
    """
    stays = (keep & ~split).nonzero().squeeze(1)
    copies = clone.nonzero().squeeze(1)
    parts = split.nonzero().squeeze(1).repeat(HALVES)
    index = torch.cat([stays, copies, parts])
    place = torch.arange(len(index), device=index.device)
    return index, place >= len(stays), place >= len(stays) + len(copies)


def _parts(params: Tensors, index: Tensor, parts: Tensor, generator: torch.Generator) -> Tensors:
    """Places and sizes [M, 3] for the rows that are parts: drawn from the Gaussian that was split."""
    scaling, place = params[SCALING][index], params[XYZ][index]
    noise = torch.randn(scaling.shape, generator=generator, dtype=scaling.dtype).to(scaling.device)
    turned = (rotation(params[ROTATION][index]) @ (noise * scaling.exp())[..., None])[..., 0]
    return {XYZ: torch.where(parts[:, None], place + turned, place), SCALING: scaling - SHRINK}


def reset_opacity(params: Tensors, moments: Tensors, highest: float) -> tuple[Tensors, Tensors]:
    """Opacities of at most `highest`, with moments of zero: what is not needed fades before it is seen again."""
    lowered = params[OPACITY].clamp(max=float(torch.tensor(highest).logit()))
    moments = {
        key: torch.zeros_like(m) if MomentKey.parse(key).parameter == OPACITY and m.ndim else m
        for key, m in moments.items()
    }
    return {**params, OPACITY: lowered}, moments
