"""Sums of table rows with weights, the one expensive operation of grid scenes.

    y_m = sum_k w_mk table[i_mk]

On a CPU this is several times faster than `grid_sample`: forward in an embedding bag (vectorised over the
features), backward in one scatter a feature, both block by block so that indices and weights stay in the cache.

Legend: M points, K corners of a cell (8), T rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 14
"""Points looked up at a time on a CPU."""
Locate = Callable[[slice], tuple[Tensor, Tensor]]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, locate: Locate, count: int) -> Tensor:
        size = BLOCK if table.device.type == "cpu" else max(count, 1)
        # indices and weights are kept by block: recomputing them costs as much as reading them
        ctx.found = [(s, *locate(s)) for s in (slice(i, min(i + size, count)) for i in range(0, count, size))]
        ctx.rows = table.shape[0]
        out = table.new_empty(table.shape[1], count)
        for s, index, weight in ctx.found:
            out[:, s] = F.embedding_bag(index, table, per_sample_weights=weight, mode="sum").t()
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads  # [F, M]
        if grad.device.type != "cpu":
            total = grad.new_zeros(ctx.rows, len(grad))
            for s, index, weight in ctx.found:
                parts = (weight[..., None] * grad[:, s].t()[:, None]).flatten(0, 1)
                total.index_add_(0, index.reshape(-1), parts)
            return total, None, None
        columns = grad.new_zeros(len(grad), ctx.rows)
        for s, index, weight in ctx.found:
            flat = index.reshape(-1)
            for total, column in zip(columns, grad[:, s], strict=True):
                total.scatter_add_(0, flat, (weight * column[:, None]).reshape(-1))
        return columns.t(), None, None


def gather(table: Tensor, locate: Locate, count: int) -> Tensor:
    """Weighted sums of rows; gradients go to the table alone.

    Args:
        table: [T, F].
        locate: from a slice of the points to their rows [m, K] (int64) and weights [m, K].
        count: M.

    Returns:
        [F, M]: what follows works on a feature at a time
    """
    out: Tensor = _Gather.apply(table.contiguous(), locate, count)
    return out


def cell(position: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The cells that hold positions.

    Args:
        position: [3, M] in units of cells, the first vertex at 0.
        side: vertices along a side.

    Returns:
        The lowest corners [3, M] (int64), and where in the cell the positions are, [3, M] in [0, 1].
    """
    position = position.clamp(0, side - 1)
    low = position.long().clamp_(max=side - 2)
    return low, position - low


def weights(rest: Tensor) -> Tensor:
    """Trilinear weights [M, 8] of corners 000, 001, 010, ... (x, y, z), from [3, M] in [0, 1]."""
    x, y, z = rest
    both = torch.stack([1 - z, z], -1)  # [M, 2]
    both = torch.cat([both * (1 - y)[:, None], both * y[:, None]], -1)
    return torch.cat([both * (1 - x)[:, None], both * x[:, None]], -1)


def corners(low: Tensor, side: int) -> Tensor:
    """Rows [M, 8] of the corners of cells [3, M] in a dense grid of `side`^3 vertices, x slowest."""
    first = (low[0] * side + low[1]) * side + low[2]
    steps = [(x * side + y) * side + z for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    return first[:, None] + torch.tensor(steps, device=low.device)
