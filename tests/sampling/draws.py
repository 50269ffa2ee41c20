"""Noise for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamprop.rng import generator


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise in float64."""
    return torch.randn(*shape, generator=generator(seed, 0, "test"), dtype=torch.float64)
