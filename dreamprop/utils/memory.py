"""Memory that is left on a device."""

import psutil
import torch


def available(device: torch.device) -> int:
    """Bytes that can still be had, those that PyTorch holds for itself included."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + held)
