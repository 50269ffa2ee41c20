"""How pictures come to a noise level: by noise that is drawn, or by what the model itself takes for noise.

Legend: N pictures, C channels, T timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_noise(z: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """sqrt(abar) z + sqrt(1 - abar) eps (DDPM, arXiv:2006.11239, eq. 4).

    Args:
        z, noise: [N, C, h, w]
        alphas_cumprod: [N, 1, 1, 1] abar

    Returns:
        [N, C, h, w]
    """
    return alphas_cumprod.sqrt() * z + (1 - alphas_cumprod).sqrt() * noise


def signal(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """abar [N, 1, 1, 1] on the way of an inversion: 1 at timestep 0, where a picture stands for itself.

    Args:
        alphas_cumprod: [T] by timestep; its first one, which is just below 1, is not used.
        timesteps: [N] int64
    """
    return torch.where(timesteps == 0, 1.0, alphas_cumprod[timesteps]).view(-1, 1, 1, 1)


def ddim_step(x: Tensor, eps: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """One deterministic step between two noise levels (DDIM, arXiv:2010.02502, eq. 12 with sigma = 0).

        x' = sqrt(abar') (x - sqrt(1 - abar) eps) / sqrt(abar) + sqrt(1 - abar') eps

    With less signal there than here it is a step of the inversion (eq. 14 of the paper, run backwards in time).

    Args:
        x: [N, C, h, w] at the level `here`.
        eps: [N, C, h, w] the noise in it.
        here, there: [N, 1, 1, 1] abar and abar'; `here` must be above 0.

    Returns:
        x' [N, C, h, w]
    """
    clean = (x - (1 - here).sqrt() * eps) / here.sqrt()
    return add_noise(clean, eps, there)
