"""Walk over lists of tensors in pieces that stay in the cache.

An optimiser step is a handful of elementwise passes. On a CPU each pass over a large tensor runs at the speed
of memory; done piece by piece, all but the first read and the last write run at the speed of the cache. The
values are the same: every operation is elementwise. On other devices there is one piece, and one kernel for
all of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dreamprop.utils import cpu_allocator

Tensors = tuple[Tensor, ...] | list[Tensor]
"""What PyTorch's operations on many tensors take and give."""

PIECE = 1 << 15
"""Elements of a piece for each thread: PyTorch splits elementwise work over threads from this size on."""


def piece_size() -> int:
    """Elements of a piece: tensors are cut at multiples of this."""
    return PIECE * torch.get_num_threads()


def blocks(*lists: Sequence[Tensor]) -> Iterator[tuple[list[int], tuple[list[Tensor], ...]]]:
    """Matching pieces of several lists of tensors.

    Args:
        lists: each [K] tensors; the k-th tensors of all lists have one shape.

    Yields:
        owners: [B] which of the K tensors a piece is part of.
        pieces: for each list, [B] views that share memory with its tensors.
    """
    if not lists or not lists[0]:
        return
    if lists[0][0].device.type != "cpu":
        yield list(range(len(lists[0]))), tuple(list(ts) for ts in lists)
        return
    size = piece_size()
    owners: list[int] = []
    pieces: tuple[list[Tensor], ...] = tuple([] for _ in lists)
    room = size
    for k, tensors in enumerate(zip(*lists, strict=True)):
        count = tensors[0].numel()
        if count <= room or not all(t.is_contiguous() for t in tensors):
            parts: list[tuple[Tensor, ...]] = [tensors]
        else:
            parts = list(zip(*(t.view(-1).split(size) for t in tensors), strict=True))
        for part in parts:
            owners.append(k)
            for piece, view in zip(pieces, part, strict=True):
                piece.append(view)
            room -= part[0].numel()
            if room <= 0:
                yield owners, pieces
                owners, pieces, room = [], tuple([] for _ in lists), size
    if owners:
        yield owners, pieces


def like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Memory for results, one tensor for each of these."""
    return [cpu_allocator.like(t) for t in tensors]


def mul(out: Tensors, a: Tensors, scale: float) -> None:
    """``out = scale a``."""
    if out[0].device.type == "cpu":
        for o, x in zip(out, a, strict=True):
            torch.mul(x, scale, out=o)
    else:
        torch._foreach_copy_(out, a)
        torch._foreach_mul_(out, scale)


def add(out: Tensors, a: Tensors, b: Tensors, scale: float) -> None:
    """``out = a + scale b``."""
    if out[0].device.type == "cpu":
        for o, x, y in zip(out, a, b, strict=True):
            torch.add(x, y, alpha=scale, out=o)
    else:
        torch._foreach_copy_(out, a)
        torch._foreach_add_(out, b, alpha=scale)


def lerp(out: Tensors, a: Tensors, b: Tensors, weight: float) -> None:
    """``out = a + weight (b - a)``."""
    if out[0].device.type == "cpu":
        for o, x, y in zip(out, a, b, strict=True):
            torch.lerp(x, y, weight, out=o)
    else:
        torch._foreach_copy_(out, a)
        torch._foreach_lerp_(out, b, weight)


def addcdiv(out: Tensors, a: Tensors, b: Tensors, c: Tensors, value: float) -> None:
    """``out = a + value b / c``."""
    if out[0].device.type == "cpu":
        for o, x, y, z in zip(out, a, b, c, strict=True):
            torch.addcdiv(x, y, z, value=value, out=o)
    else:
        torch._foreach_copy_(out, a)
        torch._foreach_addcdiv_(out, b, c, value)
