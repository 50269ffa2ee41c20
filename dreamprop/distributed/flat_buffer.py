"""Tensors as one run of bytes, and back: what travels between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamprop.state import Drift
from dreamprop.utils import cpu_allocator

ALIGN = 16
"""Bytes that every tensor begins at a multiple of, so that it can be read in place."""


def pack(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The tensors one after another, as bytes on a device."""
    sizes = [_padded(t.numel() * t.element_size()) for t in tensors]
    flat = cpu_allocator.empty(sum(sizes), device)
    for room, tensor in zip(flat.split(sizes), tensors, strict=True):
        data = tensor.detach().reshape(-1)
        room[: data.numel() * data.element_size()].view(data.dtype).copy_(data)
    return flat


def unpack(flat: Tensor, shapes: Sequence[tuple[torch.dtype, Sequence[int]]]) -> list[Tensor]:
    """The tensors of these types and shapes that were packed; they share memory with the parcel."""
    counts = [torch.Size(shape).numel() * dtype.itemsize for dtype, shape in shapes]
    rooms = flat.split([_padded(n) for n in counts])
    return [
        room[:n].view(dtype).view(tuple(shape))
        for room, n, (dtype, shape) in zip(rooms, counts, shapes, strict=True)
    ]


def num_bytes(shapes: Sequence[tuple[torch.dtype, Sequence[int]]]) -> int:
    """Bytes of a parcel of such tensors."""
    return sum(_padded(torch.Size(shape).numel() * dtype.itemsize) for dtype, shape in shapes)


def describe_drift(drift: Drift) -> list[list[list[Any]]]:
    """Names, types and shapes of a drift, as JSON."""
    return [describe_tensors(drift.grads), describe_tensors(drift.aux)]


def describe_tensors(named: Mapping[str, Tensor]) -> list[list[Any]]:
    """Names, types and shapes of tensors, as JSON."""
    return [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in named.items()]


def dtypes_and_shapes(part: Sequence[Sequence[Any]]) -> list[tuple[torch.dtype, Sequence[int]]]:
    """Types and shapes of one part of a description."""
    return [(getattr(torch, dtype), shape) for _, dtype, shape in part]


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
