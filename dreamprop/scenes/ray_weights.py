"""How much each sample of a ray counts in its pixel; by nerfacc, or where its sums have no order, in a fixed one.

Legend: N rays, S samples a ray.
"""

from __future__ import annotations

import nerfacc
import torch
from torch import Tensor


def ray_weights(density: Tensor, step: float) -> Tensor:
    """Weights ``w_i = exp(-sum_{j<i} sigma_j d) (1 - exp(-sigma_i d))``, arXiv:2003.08934, equation 3.

    Args:
        density: [N, S] sigma, per unit of length.
        step: d, the length that a sample stands for.

    Returns:
        [N, S] in [0, 1].
    """
    if density.is_cuda and torch.are_deterministic_algorithms_enabled():
        return ordered(density, step)
    ends = torch.full_like(density[:1], step)
    weights, _, _ = nerfacc.render_weight_from_density(torch.zeros_like(ends), ends, density)
    return weights


def ordered(density: Tensor, step: float) -> Tensor:
    """The same with the optical depth before each sample as a product with a triangle of ones.

    nerfacc takes ``torch.cumsum``, of which PyTorch has no deterministic version on CUDA, forward or backward.
    """
    depth = density * step
    before = torch.ones(depth.shape[-1], depth.shape[-1], dtype=depth.dtype, device=depth.device).triu(1)
    return torch.exp(-(depth @ before)) * -torch.expm1(-depth)
