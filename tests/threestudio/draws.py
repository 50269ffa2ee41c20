"""Numbers that tests draw."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from [0, 1) in double precision, which difference quotients need."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
