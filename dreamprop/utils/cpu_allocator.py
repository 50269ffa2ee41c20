"""Memory of large CPU tensors, used again while a loop runs.

A round makes a few new copies of everything the optimiser holds and drops as many. The system takes large
blocks back at once and clears them page by page when they are asked for again, which costs more than the
arithmetic. GPUs do not need this: PyTorch keeps their memory itself.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

LARGE = 1 << 20
"""Bytes from which memory is kept."""
PATIENCE = 256
"""How many times memory of other sizes is asked for before that of one is given up: a few rounds."""


def _block(size: int) -> np.ndarray:
    area = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, dtype=np.uint8)


class _Pool:
    """Blocks that nobody uses at the moment, by their bytes."""

    def __init__(self) -> None:
        self.users = 0
        self.free: dict[int, list[np.ndarray]] = {}
        self._asked: dict[int, int] = {}
        self._clock = 0

    def take(self, size: int) -> np.ndarray:
        self._clock += 1
        self._asked[size] = self._clock
        for old in [s for s, when in self._asked.items() if self._clock - when > PATIENCE]:
            # shapes have changed, as after a resize: blocks of the old ones may never be asked for again
            del self._asked[old], self.free[old]
        spare = self.free.setdefault(size, [])
        return spare.pop() if spare else _block(size)

    def give(self, size: int, block: np.ndarray) -> None:
        if self.users and size in self.free:
            self.free[size].append(block)


_pool = _Pool()


@contextmanager
def reuse() -> Iterator[None]:
    """Keep the memory that ``like`` hands out for use again, until the outermost of these ends."""
    _pool.users += 1
    try:
        yield
    finally:
        _pool.users -= 1
        if not _pool.users:
            _pool.free, _pool._asked = {}, {}


def like(tensor: Tensor) -> Tensor:
    """An empty contiguous tensor of the same shape, type and device.

    Its memory comes back when the last tensor that shares it is gone, views included: what NumPy lends to
    PyTorch is let go of then, and only then.
    """
    size = tensor.numel() * tensor.element_size()
    if not _pool.users or tensor.device.type != "cpu" or size < LARGE:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format, requires_grad=False)
    return empty(size, tensor.device).view(tensor.dtype).view(tensor.shape)


def empty(size: int, device: torch.device) -> Tensor:
    """So many bytes of memory, ``torch.uint8``; they come back as those of ``like`` do."""
    if not _pool.users or device.type != "cpu" or size < LARGE:
        return torch.empty(size, dtype=torch.uint8, device=device)
    block = _pool.take(size)
    lent = block[:size]
    weakref.finalize(lent, _pool.give, size, block).atexit = False
    return torch.from_numpy(lent)
