"""Colours that depend on the direction they are seen from: real spherical harmonics to degree 3.

Legend: K = (degree + 1)^2 coefficients of a colour.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST = 3
"""The highest degree."""
C0 = 0.5 / math.sqrt(math.pi)
"""The harmonic of degree 0."""


def basis(directions: Tensor, degree: int) -> Tensor:
    """The real spherical harmonics [..., K] at unit directions [..., 3], orthonormal on the sphere.

        Y_l^m = sqrt(2) N_lm P_l^|m|(z) {sin |m| phi for m < 0, cos m phi for m > 0},  l <= 3, by (l, m)

    with the Condon-Shortley phase in P: the signs of 3D Gaussian Splatting and of its viewers (arXiv:2308.04079).
    """
    x, y, z = directions.unbind(-1)
    pi = math.pi
    columns = [torch.full_like(x, C0)]
    if degree >= 1:
        c = math.sqrt(3 / (4 * pi))
        columns += [-c * y, c * z, -c * x]
    if degree >= 2:
        c = math.sqrt(15 / pi) / 2
        zonal = math.sqrt(5 / pi) / 4 * (3 * z * z - 1)
        columns += [c * x * y, -c * y * z, zonal, -c * x * z, c / 2 * (x * x - y * y)]
    if degree >= 3:
        c3, c2, c1 = math.sqrt(35 / (2 * pi)) / 4, math.sqrt(105 / pi) / 2, math.sqrt(21 / (2 * pi)) / 4
        columns += [
            -c3 * y * (3 * x * x - y * y),
            c2 * x * y * z,
            -c1 * y * (5 * z * z - 1),
            math.sqrt(7 / pi) / 4 * z * (5 * z * z - 3),
            -c1 * x * (5 * z * z - 1),
            c2 / 2 * z * (x * x - y * y),
            -c3 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(columns, -1)


def color(coefficients: Tensor, directions: Tensor) -> Tensor:
    """Colours `max(0, 1/2 + sum_k c_k Y_k(d))` [..., 3] of coefficients [..., K, 3] in directions [..., 3]."""
    degree = math.isqrt(coefficients.shape[-2]) - 1
    found = (basis(directions, degree)[..., None] * coefficients).sum(-2)
    return (found + 0.5).clamp(min=0)
