"""Pictures of 3D Gaussians by one interface: by gsplat where CUDA is and it is installed, else in plain PyTorch.

Legend: W states, B pictures a state, N Gaussians, K coefficients of a colour, H and V pixels down and across.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.gaussians import spherical_harmonics
from dreamprop.scenes.gaussians.projection import NEAR, project
from dreamprop.scenes.gaussians.rasterize import ALPHA_LEAST, rasterize_shadows


@dataclass(frozen=True)
class Splatted:
    """Pictures of Gaussians."""

    color: Tensor
    """[W B, 3, H, V] before a background, premultiplied by the opacity"""
    opacity: Tensor
    """[W B, 1, H, V] in [0, 1]."""
    means: Tensor
    """[W, B, N, 2] where their middles are seen, in pixels; in the graph."""
    radii: Tensor
    """[W, B, N] how far a shadow reaches at most, in pixels; 0 where it is not seen."""


Splat = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Splatted]


def splat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    coefficients: Tensor,
    viewmats: Tensor,
    ks: Tensor,
    width: int,
    height: int,
) -> Splatted:
    """Pictures in plain PyTorch, on any device.

    Args:
        means: [W, N, 3] in world coordinates.
        quats: [W, N, 4] rotations (w, x, y, z).
        scales: [W, N, 3] standard deviations along the axes.
        opacities: [W, N] in [0, 1].
        coefficients: [W, N, K, 3] of spherical harmonics.
        viewmats: [W, B, 4, 4] from the world to a camera that looks along +z, y down.
        ks: [W, B, 3, 3] from there to pixels.
        width, height: V, H in pixels.
    """
    seen = project(means, quats, scales, viewmats, ks, width, height)
    xx, xy, yy = seen.covariances.unbind(-1)
    opacity = opacities[:, None] * seen.compensation
    with torch.no_grad():
        # how many standard deviations a shadow is seen to, and along its longer axis how many pixels
        reach = (2 * (opacity / ALPHA_LEAST).clamp(min=1).log()).sqrt()
        longest = (xx + yy) / 2 + (((xx - yy) / 2).square() + xy * xy).sqrt()
        radii = (reach * longest.sqrt()).ceil()
        x, y = seen.means.unbind(-1)
        wide, high = reach * xx.sqrt(), reach * yy.sqrt()
        inside = (x + wide > 0) & (x - wide < width) & (y + high > 0) & (y - high < height)
        radii = radii * (inside & (seen.depth > NEAR))
    det = xx * yy - xy * xy
    conics = torch.stack([yy / det, -xy / det, xx / det], -1)
    places = -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:])[..., 0]  # [W, B, 3]
    directions = F.normalize(means[:, None] - places[:, :, None], dim=-1)
    if coefficients.shape[2] == 1:  # the same from everywhere
        directions = directions[:, :1]
    colors = spherical_harmonics.color(coefficients[:, None], directions)  # [W, B or 1, N, 3]
    colors = colors.expand(*seen.depth.shape, 3)
    color, alpha = rasterize_shadows(
        seen.means.flatten(0, 1),
        conics.flatten(0, 1),
        opacity.flatten(0, 1),
        colors.flatten(0, 1),
        seen.depth.detach().flatten(0, 1),
        (radii > 0).flatten(0, 1),
        width,
        height,
    )
    return Splatted(color, alpha, seen.means, radii)
