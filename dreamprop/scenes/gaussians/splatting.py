"""Pictures of 3D Gaussians by one interface: by gsplat where CUDA is and it is installed, else in plain PyTorch.

Legend: W states, B pictures a state, N Gaussians, H and V pixels down and across.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.gaussians import spherical_harmonics
from dreamprop.scenes.gaussians.camera_matrices import CameraMatrices
from dreamprop.scenes.gaussians.projection import NEAR, project
from dreamprop.scenes.gaussians.rasterize import ALPHA_LEAST, rasterize_shadows
from dreamprop.scenes.gaussians.splats import Splats


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


Splat = Callable[[Splats, CameraMatrices], Splatted]


def splat(splats: Splats, cameras: CameraMatrices) -> Splatted:
    """Pictures in plain PyTorch, on any device."""
    seen, width, height = project(splats, cameras), cameras.width, cameras.height
    xx, xy, yy = seen.covariances.unbind(-1)
    opacity = splats.opacities[:, None] * seen.compensation
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
    turn, shift = cameras.viewmats[..., :3, :3], cameras.viewmats[..., :3, 3:]
    places = -(turn.transpose(-1, -2) @ shift)[..., 0]  # [W, B, 3]
    directions = F.normalize(splats.means[:, None] - places[:, :, None], dim=-1)
    if splats.coefficients.shape[2] == 1:  # the same from everywhere
        directions = directions[:, :1]
    colors = spherical_harmonics.color(splats.coefficients[:, None], directions)  # [W, B or 1, N, 3]
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
