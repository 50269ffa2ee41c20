"""Sums of table rows with weights, the one expensive operation of grid scenes.

    y_m = sum_k w_mk table[i_mk]

On a CPU this is several times faster than `grid_sample`: forward in an embedding bag (vectorised over the features),
backward in one scatter a feature. On other devices the scatter takes whole rows.

Legend: M points, K corners of a cell (8), T rows, F features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = table.shape[0]
        return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad,) = grads  # [M, F]
        index, weight = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        flat = index.reshape(-1)
        if grad.device.type != "cpu":
            parts = (weight[..., None] * grad[:, None]).reshape(-1, grad.shape[1])
            return grad.new_zeros(ctx.rows, grad.shape[1]).index_add_(0, flat, parts), None, None
        columns = grad.t().contiguous()
        out = grad.new_zeros(len(columns), ctx.rows)
        for total, column in zip(out, columns, strict=True):
            total.scatter_add_(0, flat, (weight * column[:, None]).reshape(-1))
        return out.t(), None, None


def gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows; gradients go to the table alone.

    Args:
        table: [T, F].
        index: [M, K] rows.
        weight: [M, K].

    Returns:
        [M, F]
    """
    out: Tensor = _Gather.apply(table.contiguous(), index, weight)
    return out


def cell(position: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The lowest corner [3, M] (int64) of the cells that hold positions [3, M] in units of cells, and the rest in [0, 1]."""
    position = position.clamp(0, side - 1)
    low = position.long().clamp_(max=side - 2)
    return low, position - low


def weights(rest: Tensor) -> Tensor:
    """Trilinear weights [M, 8] of the corners in the order (x, y, z) = 000, 001, 010, ..., from [3, M] in [0, 1]."""
    x, y, z = rest
    both = torch.stack([1 - z, z], -1)  # [M, 2]
    both = torch.cat([both * (1 - y)[:, None], both * y[:, None]], -1)
    return torch.cat([both * (1 - x)[:, None], both * x[:, None]], -1)


def corners(low: Tensor, side: int) -> Tensor:
    """Rows [M, 8] of a cell's corners in a dense grid of `side`^3 vertices, x slowest; low is [3, M]."""
    first = (low[0] * side + low[1]) * side + low[2]
    steps = [(x * side + y) * side + z for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    return first[:, None] + torch.tensor(steps, device=low.device)
