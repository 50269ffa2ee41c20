"""Counts what is copied from the host to another device, for which `meta` stands where there is none."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Copies(TorchDispatchMode):
    """How many tensors were copied from the CPU to another device; scalars travel as arguments of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [a for a in args if isinstance(a, Tensor)]
        if isinstance(out, Tensor) and out.device.type != "cpu":
            self.count += any(a.device.type == "cpu" and a.ndim > 0 for a in tensors)
        return out
