"""Interpolation in grids whose vertices are rows of tables, dense or shared by a hash.

    y_m = sum_c w_mc table[i_mc]

over the corners c of the cell that holds point m, with multilinear weights w, and for rows i either the dense index of
the vertex or its hash (Instant-NGP, arXiv:2201.05989, eq. 4). It is the one expensive operation of grid scenes. On a
CPU this is several times faster than `grid_sample`: forward in an embedding bag (vectorised over the features),
backward in one scatter a feature, both block by block so that indices and weights stay in the cache.

On CUDA the backward pass adds with atomics, in no fixed order, unless `torch.use_deterministic_algorithms` is on.

Corners are counted like binary numbers whose lowest digit belongs to the axis that is given first.

Legend: M points, D axes, C = 2^D corners of a cell, T rows, F features of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 14
"""Points looked up at a time on a CPU."""
PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)
"""What the hash multiplies the coordinates by, axis by axis (arXiv:2201.05989, section 3; the paper names three)."""
Part = tuple[Tensor, Tensor]
"""Rows [M, C] (int64) and weights [M, C] of consecutive points."""


def cell(position: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The cells that hold positions; what is outside the grid is moved to its border.

    Args:
        position: [D, M] in units of cells, the first vertex at 0.
        side: vertices along a side.

    Returns:
        The lowest corners [D, M] (int64), and where in the cell the positions are, [D, M] in [0, 1].
    """
    position = position.clamp(0, side - 1)
    low = position.long().clamp_(max=side - 2)
    return low, position - low


def weights(shares: Sequence[Tensor]) -> Tensor:
    """Multilinear weights [M, C] of the corners, from D times [M] in [0, 1]; differentiable in them."""
    first, *others = shares
    found = torch.stack([1 - first, first], -1)
    for share in others:
        found = torch.cat([found * (1 - share)[:, None], found * share[:, None]], -1)
    return found


def dense_rows(low: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """`sum_d stride_d v_d` [M, C] for the vertices v at the corners of cells whose lowest ones are D times [M]."""
    first = low[0] * strides[0]
    for axis, stride in zip(low[1:], strides[1:], strict=True):
        first = first + axis * stride
    return first[:, None] + _steps(tuple(strides), first.device)


@lru_cache(maxsize=256)
def _steps(strides: tuple[int, ...], device: torch.device) -> Tensor:
    """From the row of the lowest corner to those of all corners [C]; never written to."""
    steps = [0]
    for stride in strides:
        steps += [step + stride for step in steps]
    return torch.tensor(steps, device=device)


def hashed_rows(low: Sequence[Tensor], primes: Sequence[int]) -> Tensor:
    """`xor_d prime_d v_d` [M, C] for the vertices v at the corners, to be taken modulo the rows of the table."""
    found = torch.stack([low[0], low[0] + 1], -1) * primes[0]
    for axis, prime in zip(low[1:], primes[1:], strict=True):
        near = axis * prime
        found = torch.cat([found ^ near[:, None], found ^ (near + prime)[:, None]], -1)
    return found


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(table, *parts)
        out = table.new_empty(table.shape[1], sum(len(index) for index in parts[::2]))
        first = 0
        for index, weight in zip(parts[::2], parts[1::2], strict=True):
            last = first + len(index)
            if len(index) == 0 or table.device.type not in ("cpu", "cuda"):
                rows = (table[index] * weight[..., None]).sum(1)
            else:
                rows = F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
            out[:, first:last] = rows.t()
            first = last
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        table, *parts = ctx.saved_tensors
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        by_part = grads[0].split([len(index) for index, _ in pairs], dim=1)  # each [F, m]
        for_table: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for_table = _scattered(table, pairs, by_part)
        for_parts: list[Tensor | None] = []
        for (index, _), grad, needed in zip(pairs, by_part, ctx.needs_input_grad[2::2], strict=True):
            rows = table.index_select(0, index.flatten()).view(*index.shape, -1) if needed else None
            for_parts += [None, None if rows is None else (rows * grad.t()[:, None]).sum(-1)]
        return for_table, *for_parts


def _scattered(table: Tensor, pairs: Sequence[Part], grads: Sequence[Tensor]) -> Tensor:
    """The gradient [T, F] with respect to the table: every row's weighted sum of what its points got."""
    if table.device.type != "cpu" or torch.is_grad_enabled():
        # ordinary operations, so that this can be differentiated again
        total = torch.zeros_like(table)
        for (index, weight), grad in zip(pairs, grads, strict=True):
            sent = (weight[..., None] * grad.t()[:, None]).flatten(0, 1)  # [m C, F]
            total = total.index_add(0, index.flatten(), sent)
        return total
    columns = table.new_zeros(table.shape[1], len(table))
    for (index, weight), grad in zip(pairs, grads, strict=True):
        flat = index.flatten()
        for column, of_feature in zip(columns, grad, strict=True):
            column.scatter_add_(0, flat, (weight * of_feature[:, None]).flatten())
    return columns.t()


def lookup(table: Tensor, parts: Sequence[Part]) -> Tensor:
    """Weighted sums of rows, differentiable any number of times in the table and the weights.

    Args:
        table: [T, F].
        parts: rows and weights of one block of points after another.

    Returns:
        [F, M]: what follows works on a feature at a time.
    """
    out: Tensor = _Lookup.apply(table.contiguous(), *(tensor for part in parts for tensor in part))
    return out


def gather(table: Tensor, locate: Callable[[slice], Part], count: int) -> Tensor:
    """`lookup` of M points whose rows and weights are found block by block; those get no gradient.

    Args:
        table: [T, F].
        locate: from a slice of the points to their rows and weights.
        count: M.

    Returns:
        [F, M]
    """
    size = BLOCK if table.device.type == "cpu" else max(count, 1)
    with torch.no_grad():
        # kept for the backward pass: recomputing them costs as much as reading them
        parts = [locate(slice(first, min(first + size, count))) for first in range(0, count, size)]
    return lookup(table, parts)
