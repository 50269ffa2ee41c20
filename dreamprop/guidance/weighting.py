"""Weights w(t) of a score distillation's gradient, by the cumulative product of alphas abar at the timestep."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "sds": lambda abar: 1 - abar,
    "uniform": torch.ones_like,
    "fantasia3d": lambda abar: abar.sqrt() * (1 - abar),
    "sigma": lambda abar: ((1 - abar) / abar).sqrt(),
}
"""By the names that `weighting_strategy` takes: DreamFusion's sigma_t^2 (arXiv:2209.14988), none, Fantasia3D's
sigma_t^2 sqrt(1 - sigma_t^2) (arXiv:2303.13873), and sigma_t / sqrt(1 - sigma_t^2), noise to signal, of
LucidDreamer's code (arXiv:2311.11284); each from abar of any shape to weights of that shape."""
