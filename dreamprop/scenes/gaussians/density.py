"""The density and the colour of 3D Gaussians at points, for a mesh by marching cubes.

    sigma(x) = sum_i sigma_i exp(-(x - mu_i)^T Sigma_i^-1 (x - mu_i) / 2),   sigma_i = -log(1 - o_i) / (s_i sqrt(2 pi))

where s_i is the geometric mean of the standard deviations: along a ray through the middle of a round Gaussian the
density's integral is then -log(1 - o_i), so that it hides o_i of what is behind, as its picture does.

Legend: P points, N Gaussians, C cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamprop.scenes.gaussians.projection import rotation

REACH = 3.0
"""Standard deviations beyond which a Gaussian is not looked at."""
CELL = 0.125
"""Side of the cubes in which points are looked at together, in units of length."""


def density_and_color(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Density [P], in 1 / length, and colour [P, 3], a mean weighted by the density; grey where there is none.

    Args:
        means: [N, 3].
        quats: [N, 4] rotations (w, x, y, z).
        scales: [N, 3] standard deviations along the axes.
        opacities: [N] in [0, 1].
        colors: [N, 3] in [0, 1].
        points: [P, 3].
    """
    turn = rotation(quats)
    peak = -torch.log1p(-opacities.clamp(max=0.999)) / (scales.log().mean(1).exp() * math.sqrt(2 * math.pi))
    whiten = turn.transpose(1, 2) / scales[:, :, None]  # [N, 3, 3]: to units of standard deviations
    half = REACH * (turn * scales[:, None, :]).norm(dim=2)  # [N, 3] of the box around a Gaussian
    density, color = points.new_zeros(len(points)), points.new_full((len(points), 3), 0.5)
    cell = (points / CELL).floor().long()
    _, owner = torch.unique(cell, dim=0, return_inverse=True)
    order = owner.argsort()
    for mine in order.split(torch.bincount(owner).tolist()):
        here = points[mine]
        low, high = here.amin(0), here.amax(0)
        near = ((means + half >= low) & (means - half <= high)).all(1).nonzero().squeeze(1)
        offset = here[:, None] - means[near]  # [p, n, 3]
        distance = torch.einsum("nij,pnj->pni", whiten[near], offset).square().sum(-1)
        weight = peak[near] * torch.exp(-distance / 2) * (distance < REACH**2)
        total = weight.sum(1)
        density[mine] = total
        found = weight @ colors[near] / total.clamp(min=1e-12)[:, None]
        color[mine] = torch.where(total[:, None] > 0, found, color[mine])
    return density, color
