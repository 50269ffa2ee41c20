"""The device that a name means on this machine."""

import os

import torch

from dreamprop.errors import InputError


def device_of(name: str) -> torch.device:
    """The device that a name means here.

    Raises:
        InputError: the name is no device, or the machine lacks it.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and several:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    elif name.startswith("cuda:") and several:
        raise InputError(f"device must be auto, cpu or cuda with several processes, got {name!r}; use auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be auto, cpu or cuda[:N], got {name!r}; use auto") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda[:N], got {name!r}; use auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name} must exist, found {torch.cuda.device_count()} CUDA devices; use auto"
        )
    return device
