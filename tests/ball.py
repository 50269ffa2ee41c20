"""A known result: the picture of a coloured ball from any camera, for guidances that need no trained weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Ball(nn.Module):
    """The picture of a ball around the origin, coloured by side, before what is grey: 0.5, or 0 for latents."""

    def __init__(self, radius: float = 0.5) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, rays_o: Tensor, rays_d: Tensor, channels: int = 3) -> Tensor:
        """What rays [..., 3] with directions of length 1 see, [..., channels]: the surface's normal as a colour."""
        along = -(rays_o * rays_d).sum(-1, keepdim=True)
        root = along.square() - rays_o.square().sum(-1, keepdim=True) + self.radius**2
        normal = (rays_o + (along - root.clamp_min(0).sqrt()) * rays_d) / self.radius
        seen = torch.where(root > 0, torch.cat([normal, normal[..., :1]], -1)[..., :channels], 0.0)
        return 0.5 + 0.5 * seen if channels == 3 else seen


@dataclass
class Frozen:
    """Hides a ball from ``named_modules``, as upstream hides its U-Nets."""

    unet: Ball
