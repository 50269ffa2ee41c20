"""Tensors as one run of bytes, and back: what travels between processes.

The bytes lie on one device, that of whoever sends them; the tensors may come from several, and each comes out on the
kind of device that it was on. What is of one kind lies together, so that it crosses between devices in one copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamprop.utils import cpu_allocator

ALIGN = 16
"""Bytes that every tensor begins at a multiple of, so that it can be read in place."""


@dataclass(frozen=True)
class TensorSpec:
    """What must be known of a tensor besides its bytes."""

    dtype: torch.dtype
    """Type of its elements."""
    shape: tuple[int, ...]
    """Its shape; the elements lie in row-major order."""
    device: str = "cpu"
    """Kind of the device that it is on (``cpu``, ``cuda``); each process has its own device of that kind."""

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The description of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape), tensor.device.type)

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> TensorSpec:
        """What ``to_json`` made this value of."""
        dtype, shape, device = value
        return cls(getattr(torch, dtype), tuple(shape), device)

    def to_json(self) -> list[Any]:
        """A value that JSON can hold: type, shape and kind of device."""
        return [str(self.dtype).removeprefix("torch."), list(self.shape), self.device]

    @property
    def num_bytes(self) -> int:
        """Bytes of the elements."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def room(self) -> int:
        """Bytes that the tensor takes among others."""
        return -(-self.num_bytes // ALIGN) * ALIGN


def pack(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The bytes of the tensors, on a device; ``unpack`` takes them apart."""
    specs = [TensorSpec.of(t) for t in tensors]
    flat = cpu_allocator.empty(num_bytes(specs), device)
    for kind, members, section in _sections(flat, specs):
        at_home = section if kind == device.type else cpu_allocator.empty(section.numel(), torch.device(kind))
        for i, room in zip(members, at_home.split([specs[i].room for i in members]), strict=True):
            room[: specs[i].num_bytes].view(specs[i].dtype).copy_(tensors[i].detach().reshape(-1))
        if at_home is not section:
            section.copy_(at_home)
    return flat


def unpack(flat: Tensor, specs: Sequence[TensorSpec]) -> list[Tensor]:
    """The tensors that were packed, each on this process's device of its kind; those of one kind share memory."""
    found: dict[int, Tensor] = {}
    for kind, members, section in _sections(flat, specs):
        at_home = section if kind == flat.device.type else section.to(kind)
        for i, room in zip(members, at_home.split([specs[i].room for i in members]), strict=True):
            found[i] = room[: specs[i].num_bytes].view(specs[i].dtype).view(specs[i].shape)
    return [found[i] for i in range(len(specs))]


def num_bytes(specs: Iterable[TensorSpec]) -> int:
    """Bytes of such tensors when they are packed."""
    return sum(spec.room for spec in specs)


def _sections(flat: Tensor, specs: Sequence[TensorSpec]) -> Iterator[tuple[str, list[int], Tensor]]:
    """Each kind of device with the tensors of that kind and their part of the bytes.

    The kinds come in an order that depends on the tensors alone, so that sender and receiver agree.
    """
    members: dict[str, list[int]] = {}
    for i, spec in enumerate(specs):
        members.setdefault(spec.device, []).append(i)
    sizes = [num_bytes(specs[i] for i in some) for some in members.values()]
    for (kind, some), section in zip(members.items(), flat.split(sizes) if sizes else (), strict=True):
        yield kind, some, section
