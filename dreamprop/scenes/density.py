"""From a raw field to density, with the blob that puts density in the middle at the start.

Legend: points are [..., 3] in world units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "exp": lambda biased: biased.clamp(max=15).exp(),
}
"""From `raw + bias` to density per unit of scale."""
BIASES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "blob_magic3d": lambda square, scale, std: scale * (1 - square.sqrt() / std),
    "blob_dreamfusion": lambda square, scale, std: scale * torch.exp(-0.5 * square / std**2),
    "none": lambda square, scale, std: torch.zeros_like(square),
}
"""From r^2 = |x|^2, scale and standard deviation s of the blob to the bias: a cone `scale (1 - r / s)`
(arXiv:2211.10440), a Gaussian `scale exp(-r^2 / (2 s^2))` (arXiv:2209.14988, appendix A.2), or 0."""


@dataclass(frozen=True)
class Density:
    """`sigma(x) = scale * activation(raw(x) + bias(x))`."""

    activation: str = "softplus"
    scale: float = 1.0
    bias: str = "blob_magic3d"
    blob_scale: float = 10.0
    blob_std: float = 0.5

    def of(self, biased: Tensor) -> Tensor:
        """Density [...], in 1 / length, of `raw + bias` [...]."""
        return ACTIVATIONS[self.activation](biased) * self.scale

    def offset(self, points: Tensor) -> Tensor:
        """The bias [...] at points."""
        return BIASES[self.bias](points.square().sum(-1), self.blob_scale, self.blob_std)
