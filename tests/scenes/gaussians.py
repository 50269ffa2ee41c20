"""Scenes of a few 3D Gaussians, cameras around them, and a renderer that looks at every pixel of every Gaussian."""

from __future__ import annotations

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes import cameras
from dreamprop.scenes.gaussians import spherical_harmonics
from dreamprop.scenes.gaussians.camera_matrices import CameraMatrices, matrices
from dreamprop.scenes.gaussians.projection import project
from dreamprop.scenes.gaussians.splats import Splats


def scattered(
    states: int, count: int, degree: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Splats:
    """Random Gaussians of all shapes."""
    g = torch.Generator().manual_seed(seed)
    return Splats(
        torch.randn(states, count, 3, generator=g, dtype=dtype) * 0.35,
        torch.randn(states, count, 4, generator=g, dtype=dtype),
        torch.rand(states, count, 3, generator=g, dtype=dtype) * 0.15 + 0.01,
        torch.rand(states, count, generator=g, dtype=dtype) * 0.9 + 0.05,
        torch.randn(states, count, (degree + 1) ** 2, 3, generator=g, dtype=dtype) * 0.4,
    )


def parts(splats: Splats) -> tuple[Tensor, ...]:
    """Their tensors."""
    return tuple(getattr(splats, field.name) for field in fields(splats))


def around(
    states: int, batch: int, size: tuple[int, int], dtype: torch.dtype = torch.float64
) -> CameraMatrices:
    """`batch` cameras for each state, as matrices."""
    azimuth = torch.arange(states * batch, dtype=dtype) * 73.0
    seen = cameras.orbit(
        azimuth * 0.1, azimuth, torch.full_like(azimuth, 2.4), torch.full_like(azimuth, 45.0)
    )
    width, height = size
    return matrices(seen, states, height, width)


def dense(splats: Splats, cameras: CameraMatrices) -> tuple[Tensor, Tensor]:
    """Colours [W B, 3, H, V] and opacities [W B, 1, H, V], by the formula, one Gaussian after the other."""
    seen, views, height, width = project(splats, cameras), cameras.viewmats, cameras.height, cameras.width
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1).to(splats.means)  # [H, V, 2]
    colors, alphas = [], []
    for w in range(views.shape[0]):
        for b in range(views.shape[1]):
            place = -views[w, b, :3, :3].T @ views[w, b, :3, 3]
            color = pixels.new_zeros(height, width, 3)
            left = pixels.new_ones(height, width)
            for n in seen.depth[w, b].argsort().tolist():
                xx, xy, yy = seen.covariances[w, b, n]
                inverse = torch.stack([torch.stack([yy, -xy]), torch.stack([-xy, xx])]) / (xx * yy - xy * xy)
                d = pixels - seen.means[w, b, n]
                exponent = torch.einsum("hvi,ij,hvj->hv", d, inverse, d) / 2
                opacity = splats.opacities[w, n] * seen.compensation[w, b, n]
                alpha = (opacity * torch.exp(-exponent)).clamp(max=0.999)
                alpha = torch.where(alpha >= 1 / 255, alpha, 0)
                towards = F.normalize(splats.means[w, n] - place, dim=0)
                color = color + (left * alpha)[..., None] * spherical_harmonics.color(
                    splats.coefficients[w, n], towards
                )
                left = left * (1 - alpha)
            colors.append(color.permute(2, 0, 1))
            alphas.append(1 - left[None])
    return torch.stack(colors), torch.stack(alphas)
