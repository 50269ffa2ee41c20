"""What PyTorch and Python keep for each thread, taken along from one thread into others."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import torch

T = TypeVar("T")


class CallerContext:
    """The settings of the thread that makes this: autocast, default device, current GPU, and context variables.

    A thread of a pool begins without them, and what is called there would compute in another precision, or make its
    tensors elsewhere, than where it was asked for.

    Args:
        device: that the work is on; ``None``: the CPU.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        kinds = {"cpu", *(() if device is None else (device.type,))}
        self._autocast = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in sorted(kinds)
        ]
        self._cached = torch.is_autocast_cache_enabled()
        self._default = torch.get_default_device()
        self._variables = contextvars.copy_context()

    def call(self, task: Callable[[], T]) -> T:
        """Call a function in the thread that calls this, with these settings."""
        with ExitStack() as stack:
            if self._device is not None:
                torch.cuda.set_device(self._device)
            for kind, dtype, enabled in self._autocast:
                if enabled != torch.is_autocast_enabled(kind) or dtype != torch.get_autocast_dtype(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled, self._cached))
            if torch.get_default_device() != self._default:
                stack.enter_context(self._default)
            # a copy, since no two threads may be in one context
            return self._variables.copy().run(task)
