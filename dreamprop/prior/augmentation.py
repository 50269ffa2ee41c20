"""Pictures as optimised scenes and noisy samplers make them, out of clean renders: what the judge is trained on.

Legend: N pictures of H x W, factored layers as in `world`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.prior.backgrounds import background, colorful_background
from dreamprop.prior.world import compose

NEAREST, FARTHEST = 0.65, 1.1
"""Pictures are shown at one over these magnifications."""


def augmented(layers: Tensor, first: Tensor, second: Tensor, mirrored: Tensor, g: torch.Generator) -> Tensor:
    """Colour factored renders with flat or contrasty shading, before other backgrounds, translucent, mirrored, shifted,
    scaled, blurred, coarse, with noise and another exposure.

    Args:
        layers: [N, 6, H, W] in [0, 1].
        first, second: colours of the slots [N, 3].
        mirrored: which pictures are turned left to right, [N] bool.
        g: of the draws.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    n, size = len(layers), layers.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=g))[:, None, None, None]

    # flatten the shading by moving the lit coverage of each slot towards the plain one
    own, alpha = layers[:, :2], layers[:, 5:]
    covered = own / own.sum(1, keepdim=True).clamp(min=1e-3) * alpha * 0.85
    flat = torch.where(layers[:, 2:5].amax(1, keepdim=True) > 0.02, own, covered)
    own = own + uniform(-0.2, 0.6).clamp(min=0) * (flat - own)
    # haze: an optimised scene lets something of its background through
    opacity = uniform(0.7, 1.3).clamp(max=1)
    layers = torch.cat([own, layers[:, 2:]], 1) * opacity
    jitter = 0.05 * torch.randn(2, n, 3, generator=g)
    pictures = compose(layers, first + jitter[0], second + jitter[1], backdrops(n, size, g))

    scale = uniform(NEAREST, FARTHEST).view(-1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(mirrored, -scale, scale), scale
    theta[:, :, 2] = 0.08 * torch.randn(n, 2, generator=g)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    for radius, least in ((1, -1.0), (2, -3.0)):
        pictures = pictures + uniform(least, 1.0).clamp(min=0) * (blurred(pictures, radius) - pictures)
    coarse = F.interpolate(F.avg_pool2d(pictures, 2), (size, size), mode="bilinear", align_corners=False)
    pictures = torch.where(uniform(0, 1) < 0.25, coarse, pictures)
    noise = uniform(-0.1, 0.05).clamp(min=0) * torch.randn(pictures.shape, generator=g)
    return (pictures * uniform(0.85, 1.15) + noise).clamp(0, 1)


def blurred(pictures: Tensor, radius: int) -> Tensor:
    """Means over squares of 2 radius + 1 pixels."""
    return F.avg_pool2d(F.pad(pictures, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)


def backdrops(n: int, size: int, g: torch.Generator) -> Tensor:
    """A third of any blended colours, a third soft ones, a third plain, of which some are black, white or grey."""
    kind = torch.rand(n, 1, 1, 1, generator=g)
    plain = torch.rand(n, 3, generator=g)
    grey = torch.rand(n, 1, generator=g)
    plain = torch.where(torch.rand(n, 1, generator=g) < 0.4, (1.4 * grey - 0.2).clamp(0, 1), plain)
    soft = background(n, g, size).expand(-1, -1, -1, size)
    found = torch.where(kind < 2 / 3, soft, plain[..., None, None])
    return torch.where(kind < 1 / 3, colorful_background(n, g, size), found)
