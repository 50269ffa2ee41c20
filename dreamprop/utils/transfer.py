"""What the host knows, brought to a device without making it wait: one copy for all draws of a window.

Every copy from pageable memory stops the host until the device has caught up with it, so tensors are laid into one
block of pinned memory that is copied while the host goes on, and numbers travel as arguments of the kernels that fill
them in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

ALIGNMENT = 16
"""Bytes; every tensor of a block begins at a multiple of it, as any type may."""


def to_device(value: T, device: torch.device) -> T:
    """The same value with all its tensors on a device, in one copy.

    Args:
        value: a tensor on the CPU, or dataclasses, lists and tuples with such tensors in them, at any depth.
        device: where to; for the CPU the value itself comes back.

    Returns:
        A value alike; its tensors share one block of memory on the device.
    """
    if device.type == "cpu":
        return value
    tensors = list(_tensors(value))
    ends: list[int] = []
    for tensor in tensors:
        end = (ends[-1] if ends else 0) + tensor.nbytes
        ends.append(-(-end // ALIGNMENT) * ALIGNMENT)
    block = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, piece in zip(tensors, _pieces(block, tensors, ends), strict=True):
        piece.copy_(tensor)
    moved = _pieces(block.to(device, non_blocking=True), tensors, ends)
    found: T = _replaced(value, moved)
    return found


def filled(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers as a tensor [len(values)] on a device, written by kernels there: nothing is copied.

    Args:
        values: of which neighbours are mostly equal, as those of the pictures of one state or of a constant schedule.
        device, dtype: of the tensor.
    """
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    runs = [
        torch.full((len(list(run)),), number, dtype=dtype, device=device) for number, run in groupby(values)
    ]
    return torch.cat(runs) if runs else torch.empty(0, dtype=dtype, device=device)


def _pieces(block: Tensor, tensors: Sequence[Tensor], ends: Sequence[int]) -> Iterator[Tensor]:
    """Views of a block of bytes that are like the tensors."""
    for tensor, start in zip(tensors, [0, *ends], strict=False):
        yield block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    for part in _parts(value):
        yield from _tensors(part)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    return []


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The value with its tensors, in the order of `_tensors`, replaced by others."""
    if isinstance(value, Tensor):
        return next(tensors)
    parts = [_replaced(part, tensors) for part in _parts(value)]
    if isinstance(value, list | tuple):
        return type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **dict(zip([field.name for field in fields(value)], parts, strict=True)))
    return value
