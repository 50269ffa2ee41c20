"""3D Gaussians as splatting takes them: what parameters stand for, after their activations.

Legend: W states, N Gaussians, K coefficients of a colour.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Splats:
    """The N Gaussians of each of W states."""

    means: Tensor
    """[W, N, 3] in world coordinates"""
    quats: Tensor
    """[W, N, 4] rotations (w, x, y, z), which need not be of length 1."""
    scales: Tensor
    """[W, N, 3] standard deviations along the axes"""
    opacities: Tensor
    """[W, N] in [0, 1]."""
    coefficients: Tensor
    """[W, N, K, 3] of spherical harmonics"""
