"""Counts where the program waits for a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.device_reads import DeviceReads


@contextmanager
def reads(device: torch.device) -> Iterator[list[str]]:
    """What waited for the device inside: on a GPU as PyTorch's own debug mode finds it, elsewhere what would."""
    if device.type != "cuda":
        counted = DeviceReads()
        with counted.watching():
            yield counted.found
        return
    found: list[str] = []
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
