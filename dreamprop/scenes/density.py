"""From a raw field to density, with the blob that puts density in the middle at the start.

Legend: points are [..., 3] in world units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Density:
    """`sigma(x) = scale * activation(raw(x) + bias(x))`.

    The bias is a Gaussian (arXiv:2209.14988, appendix A.2) or a cone (arXiv:2211.10440), where r = |x|:

        blob_dreamfusion:  blob_scale * exp(-r^2 / (2 blob_std^2))
        blob_magic3d:      blob_scale * (1 - r / blob_std)
    """

    activation: str = "softplus"
    scale: float = 1.0
    bias: str = "blob_magic3d"
    blob_scale: float = 10.0
    blob_std: float = 0.5

    def of(self, biased: Tensor) -> Tensor:
        """Density [...], in 1 / length, of `raw + bias` [...]."""
        return (
            F.softplus(biased) if self.activation == "softplus" else biased.clamp(max=15).exp()
        ) * self.scale

    def offset(self, points: Tensor) -> Tensor:
        """The bias [...] at points."""
        if self.bias == "none":
            return points.new_zeros(points.shape[:-1])
        square = points.square().sum(-1)
        if self.bias == "blob_dreamfusion":
            return self.blob_scale * torch.exp(-0.5 * square / self.blob_std**2)
        return self.blob_scale * (1 - square.sqrt() / self.blob_std)
