"""Bytes of tensors that are alive, counted at every operation, without what an allocator keeps for later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Follows the storages that operations on this thread make or touch while it is open.

    A storage counts once, however many tensors view it, from the first operation that it takes part in until its last
    tensor is gone. What an operation allocates and frees inside itself is not seen, nor is memory that an allocator
    keeps for later.

    Args:
        least: bytes from which a storage counts; without the many small ones the rest is counted sooner.
    """

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self._least = least
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        """The most bytes that were alive after an operation, since the last ``reset_peak``."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.nbytes() >= self._least and storage._cdata not in self._storages:
                    # the weak reference keeps the address from being given to another storage
                    self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self.peak = max(self.peak, self.bytes)
        return out

    @property
    def bytes(self) -> int:
        """Bytes that are alive now."""
        self._storages = {key: found for key, found in self._storages.items() if not found[0].expired()}
        return sum(size for _, size in self._storages.values())

    def reset_peak(self) -> None:
        """Begin anew with what is alive now."""
        self.peak = self.bytes
