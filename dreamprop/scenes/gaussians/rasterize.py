"""Shadows of Gaussians laid over one another, the nearest first, in plain PyTorch on any device.

    C_p = sum_k c_k alpha_k T_k,  alpha_k = min(0.999, o_k exp(-d^T Sigma'^-1 d / 2)),  T_k = prod_{j<k} (1 - alpha_j)

(arXiv:2308.04079, equations 3 and 4), over the pixels where alpha_k >= 1/255. There are no tiles: a shadow is an
ellipse, its part in a row of pixels a span whose ends follow from a quadratic equation, and what is worked on is the
list of (shadow, pixel) pairs in these spans and no pair besides. Spans are listed from near to far, so that a stable
sort of the pairs by pixel puts them in order; T is then the exponential of a cumulative sum of log(1 - alpha).

The gradient is written out below: with q_k = dL/dC . c_k + dL/dA, where A = sum_k alpha_k T_k is the opacity,

    dL/dalpha_k = T_k q_k - (sum_{j>k} alpha_j T_j q_j) / (1 - alpha_k)

Legend: P pictures, N shadows a picture, H and V pixels down and across, R spans, M pairs of a shadow and a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ALPHA_LEAST, ALPHA_MOST = 1 / 255, 0.999
"""A shadow is left out where it is fainter, and nowhere hides more."""


@dataclass(frozen=True)
class _Pairs:
    """The pairs of some pictures by span: shadow by shadow from near to far, row by row, and from left to right."""

    shadow: Tensor
    """[R] of a span, among the P N"""
    span: Tensor
    """[M] of a pair, among the R"""
    pixel: Tensor
    """[M] of a pair, among the P H V (int32)"""
    dx: Tensor
    """[M] from the shadow's middle to the pixel's, in pixels"""
    dy: Tensor
    """[R] the same downwards"""
    order: Tensor
    """[M] pairs by pixel, in each from near to far"""


def rasterize_shadows(
    means: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    depth: Tensor,
    visible: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """Pictures of shadows.

    Args:
        means: [P, N, 2] columns and rows in pixels, the first centre at 0.5.
        conics: [P, N, 3] inverse covariances: xx, xy and yy, per square pixel.
        opacities: [P, N] in [0, 1].
        colors: [P, N, 3].
        depth: [P, N] by which shadows are ordered.
        visible: [P, N] bool, which are to be seen.
        width, height: V, H in pixels.

    Returns:
        Colours [P, 3, H, V], premultiplied by the opacity, and opacities [P, 1, H, V].
    """
    found: tuple[Tensor, Tensor] = _Rasterize.apply(
        means, conics, opacities, colors, depth, visible, width, height
    )
    return found


class _Rasterize(torch.autograd.Function):
    """Pictures, and their gradient as it is written above."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        depth: Tensor,
        visible: Tensor,
        width: int,
        height: int,
    ) -> tuple[Tensor, Tensor]:
        pairs = _pairs(means, conics, opacities, depth, visible, width, height)
        count = len(means) * height * width
        exponential, alpha = _alpha(pairs, conics, opacities)
        transmittance = _transmittance(pairs, alpha, count)
        weight = alpha * transmittance
        shadow = pairs.shadow.index_select(0, pairs.span)
        flat = colors.flatten(0, 1)
        channels = [
            flat.new_zeros(count).index_add_(
                0, pairs.pixel, flat[:, i].contiguous().index_select(0, shadow) * weight
            )
            for i in range(3)
        ]
        opacity = weight.new_zeros(count).index_add_(0, pairs.pixel, weight)
        ctx.save_for_backward(conics, opacities, colors, alpha, exponential, transmittance)
        ctx.pairs, ctx.shadow = pairs, shadow
        shape = (len(means), 1, height, width)
        return torch.cat([c.view(shape) for c in channels], 1), opacity.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_color: Tensor, grad_opacity: Tensor) -> tuple[Tensor | None, ...]:
        conics, opacities, colors, alpha, exponential, transmittance = ctx.saved_tensors
        pairs, shadow = ctx.pairs, ctx.shadow
        weight = alpha * transmittance
        flat = colors.flatten(0, 1)
        q = grad_opacity.reshape(-1).index_select(0, pairs.pixel)
        by_color = []
        for i in range(3):
            asked = grad_color[:, i].reshape(-1).index_select(0, pairs.pixel)
            q += asked * flat[:, i].contiguous().index_select(0, shadow)
            by_color.append(weight * asked)
        behind = _behind(pairs, weight * q, grad_opacity.numel())
        by_alpha = transmittance * q - behind / (1 - alpha)
        # where alpha is held at its bound nothing moves it
        by_exponent = by_alpha * exponential * opacities.reshape(-1).index_select(0, shadow)
        by_exponent = by_exponent.masked_fill_(alpha >= ALPHA_MOST, 0)
        spans = len(pairs.shadow)

        def by_span(values: Tensor) -> Tensor:
            return values.new_zeros(spans).index_add_(0, pairs.span, values)

        def by_shadow(values: Tensor) -> Tensor:
            return values.new_zeros(conics[..., 0].numel()).index_add_(0, pairs.shadow, values)

        # moments of -dL/d(exponent) over the shadow, summed by span first: dy is the same along it
        s0, s1 = by_span(by_exponent), by_span(by_exponent * pairs.dx)
        s2 = by_span(by_exponent * pairs.dx * pairs.dx)
        v0, vx, vxx = by_shadow(s0), by_shadow(s1), by_shadow(s2)
        vy, vxy, vyy = by_shadow(s0 * pairs.dy), by_shadow(s1 * pairs.dy), by_shadow(s0 * pairs.dy * pairs.dy)
        a, b, c = conics.flatten(0, 1).unbind(-1)
        by_mean = torch.stack([a * vx + b * vy, b * vx + c * vy], -1).view(*conics.shape[:2], 2)
        by_conic = torch.stack([-vxx / 2, -vxy, -vyy / 2], -1).view_as(conics)
        by_opacity = v0.view_as(opacities) / opacities.clamp(min=1e-12)
        colored = torch.stack([by_shadow(by_span(t)) for t in by_color], -1).view_as(colors)
        return by_mean, by_conic, by_opacity, colored, None, None, None, None


def _pairs(
    means: Tensor, conics: Tensor, opacities: Tensor, depth: Tensor, visible: Tensor, width: int, height: int
) -> _Pairs:
    """The pairs of a shadow and a pixel in which alpha is not below its least."""
    pictures, shadows = depth.shape
    order = torch.where(visible, depth, torch.inf).argsort(dim=1, stable=True)  # [P, N] from near to far
    base = torch.arange(pictures, device=depth.device)[:, None]
    near = (order + base * shadows).reshape(-1)
    picture = base.expand_as(order).reshape(-1)
    mx, my = means.reshape(-1, 2).index_select(0, near).unbind(-1)
    a, b, c = conics.reshape(-1, 3).index_select(0, near).unbind(-1)
    # alpha >= 1/255 where the exponent's size, d^T Sigma^-1 d, is at most this
    reach = 2 * (opacities.reshape(-1).index_select(0, near) / ALPHA_LEAST).clamp(min=1e-12).log()
    seen = visible.reshape(-1).index_select(0, near) & (reach > 0)
    reach = reach.clamp(min=0)
    det = (a * c - b * b).clamp(min=1e-30)
    half = (reach * a / det).sqrt()
    top, rows = _between(my - half, my + half, height)
    rows = rows * seen

    owner = torch.repeat_interleave(rows)  # [R] shadows in the order of near
    row = _within(rows) + top.index_select(0, owner)
    dy = row + 0.5 - my.index_select(0, owner)
    ao, bo, co, ro, xo = (t.index_select(0, owner) for t in (a, b, c, reach, mx))
    # a dx^2 + 2 b dx dy + c dy^2 <= reach
    middle = xo - bo * dy / ao
    half = ((bo * dy).square() - ao * (co * dy * dy - ro)).clamp(min=0).sqrt() / ao
    left, columns = _between(middle - half, middle + half, width)
    span = torch.repeat_interleave(columns)  # [M]
    column = _within(columns) + left.index_select(0, span)
    first = ((picture.index_select(0, owner) * height + row) * width).int()
    pixel = first.index_select(0, span) + column.int()
    dx = column + 0.5 - xo.index_select(0, span)
    return _Pairs(near.index_select(0, owner), span, pixel, dx, dy, torch.argsort(pixel, stable=True))


def _between(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first of the pixels whose centres lie between two places, and how many they are."""
    first = (low - 0.5).ceil().clamp(0, size)
    last = (high - 0.5).floor().clamp(-1, size - 1)
    return first.long(), (last - first + 1).clamp(min=0).long()


def _within(counts: Tensor) -> Tensor:
    """0, 1, ... for each of some counts, one after the other."""
    ends = counts.cumsum(0)
    total = torch.arange(int(ends[-1]) if len(ends) else 0, device=counts.device)
    return total - torch.repeat_interleave(ends - counts, counts)


def _alpha(pairs: _Pairs, conics: Tensor, opacities: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-d^T Sigma^-1 d / 2) and alpha [M]."""
    a, b, c = conics.reshape(-1, 3).index_select(0, pairs.shadow).unbind(-1)  # [R]
    half, slope, rest = -a / 2, -b * pairs.dy, -c / 2 * pairs.dy * pairs.dy
    half, slope, rest = (t.index_select(0, pairs.span) for t in (half, slope, rest))
    exponential = ((half * pairs.dx + slope) * pairs.dx + rest).exp_()
    opacity = opacities.reshape(-1).index_select(0, pairs.shadow).index_select(0, pairs.span)
    return exponential, (exponential * opacity).clamp_(max=ALPHA_MOST)


def _transmittance(pairs: _Pairs, alpha: Tensor, count: int) -> Tensor:
    """T [M]: what comes through all nearer shadows of the pixel."""
    passed = torch.log1p(-alpha).double().index_select(0, pairs.order)
    before = _running_sum(passed) - passed
    pixels = torch.bincount(pairs.pixel, minlength=count)
    firsts = (pixels.cumsum(0) - pixels).clamp(max=max(len(passed) - 1, 0))
    start = before.index_select(0, firsts) if len(passed) else before.new_zeros(count)
    before -= start.index_select(0, pairs.pixel.index_select(0, pairs.order))
    return torch.empty_like(alpha).scatter_(0, pairs.order, before.to(alpha.dtype).exp_())


def _behind(pairs: _Pairs, values: Tensor, count: int) -> Tensor:
    """[M] the sum of values over all farther shadows of the pixel."""
    listed = values.double().index_select(0, pairs.order)
    until = _running_sum(listed)
    pixels = torch.bincount(pairs.pixel, minlength=count)
    lasts = (pixels.cumsum(0) - 1).clamp(min=0)
    end = until.index_select(0, lasts) if len(listed) else until.new_zeros(count)
    found = end.index_select(0, pairs.pixel.index_select(0, pairs.order)) - until
    return torch.empty_like(values).scatter_(0, pairs.order, found.to(values.dtype))


def _running_sum(values: Tensor) -> Tensor:
    """Sums [M] up to each value: in any order on CUDA, unless deterministic algorithms are asked for."""
    if values.is_cuda and torch.are_deterministic_algorithms_enabled():
        return fixed_point_sum(values)
    return values.cumsum(0)


def fixed_point_sum(values: Tensor) -> Tensor:
    """The same by whole numbers, whose sums are exact in any order; PyTorch has no other of that kind on CUDA.

    Each value is rounded to 2^-36 of the largest, which leaves room for 2^26 of them.
    """
    if not len(values):
        return values
    unit = values.abs().amax().clamp(min=1e-300) * 2.0**-36
    return (values / unit).round().long().cumsum(0) * unit
