"""One device a process: what upstream asks `get_device()`, `get_rank()` and `torch.cuda` for.

Upstream numbers CUDA devices by RANK before LOCAL_RANK, which is wrong on a second machine, and uses the number itself
as a device in three modules.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from typing import Any

import torch

RANK_IS_DEVICE = ("threestudio.models.networks", "threestudio.data.image", "threestudio.data.co3d")
"""Modules that use `get_rank()` as a device, and for nothing else."""


def default() -> torch.device:
    """`cuda:LOCAL_RANK` where CUDA is, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def prepare(device: torch.device) -> list[tuple[str, str]]:
    """Before upstream is imported: `torch.cuda`'s contexts, which it enters and decorates with everywhere."""
    warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.", FutureWarning)
    warnings.filterwarnings("ignore", r".*register_new_resolver", UserWarning)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        return []
    kind = device.type
    real = torch.cuda.device

    class Nowhere(real):  # type: ignore[misc,valid-type]
        """`torch.cuda.device` that does nothing for a device that is not CUDA's."""

        def __init__(self, device: Any) -> None:
            other = isinstance(device, str | torch.device) and torch.device(device).type != "cuda"
            if other or not torch.cuda.is_available():
                self.idx, self.prev_idx = -1, -1
            else:
                super().__init__(device)

    class autocast(torch.amp.autocast):
        """`torch.cuda.amp.autocast` for the device of this process."""

        def __init__(
            self, enabled: bool = True, dtype: torch.dtype | None = None, cache_enabled: bool = True
        ) -> None:
            super().__init__(kind, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)

    torch.cuda.device = Nowhere  # type: ignore[misc]
    torch.cuda.amp.autocast = autocast  # type: ignore[misc,assignment]
    torch.cuda.amp.custom_fwd = functools.partial(torch.amp.custom_fwd, device_type=kind)
    torch.cuda.amp.custom_bwd = functools.partial(torch.amp.custom_bwd, device_type=kind)
    return [("torch.cuda.device and torch.cuda.amp", f"the device is {device}")]


def place(device: torch.device) -> list[tuple[str, str]]:
    """After upstream is imported: its `get_device` and, where it means a device, its `get_rank`."""
    misc = sys.modules["threestudio.utils.misc"]
    if misc.get_device() == device and misc.get_rank() == device.index:
        return []
    where: Any = device.index if device.type == "cuda" else str(device)
    original = misc.get_device
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "threestudio" and getattr(module, "get_device", None) is original:
            setattr(module, "get_device", lambda: device)  # noqa: B010
    for name in RANK_IS_DEVICE:
        if name in sys.modules:
            setattr(sys.modules[name], "get_rank", lambda: where)  # noqa: B010
    return [("get_device() and get_rank()", f"the device is {device}")]
