"""Counts where the program waits for a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2")
"""Operations that wait for a GPU, by the names that reach the dispatcher: ``item`` and ``bool`` are the first."""


class _Watch(TorchDispatchMode):
    """Notes reads by name: what a CPU can show of them."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def reads(device: torch.device) -> Iterator[list[str]]:
    """What waited for the device inside: on a GPU as PyTorch's own debug mode finds it, on a CPU by operation."""
    found: list[str] = []
    if device.type != "cuda":
        with _Watch(found):
            yield found
        return
    torch.cuda.synchronize(device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
            found += [str(w.message) for w in caught if "called a synchronizing" in str(w.message)]
