"""How what a drift wrote into a buffer enters the rollout.

A drift of a window is evaluated at a guess, whose buffers may lag behind. So the rollout takes over what the drift
*changed*, entry by entry.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moved(buffer: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """A buffer after a drift that saw ``old`` become ``new``.

    Entries that the drift left alone keep their value. Of the others, booleans become what the drift wrote, and
    numbers move by what it changed, ``b + (new - old)``, so that counts and averages go on from accepted values;
    where b is the old value it becomes the new one to the bit.

    Args:
        buffer: of the rolled-out state.
        old: what the drift was given, of the same shape; where shapes differ the buffer is replaced.
        new: what it left.
    """
    if not buffer.shape == old.shape == new.shape:
        return new
    if buffer.dtype == torch.bool:
        return torch.where(new == old, buffer, new)
    return torch.where(new == old, buffer, torch.where(buffer == old, new, buffer + (new - old)))
