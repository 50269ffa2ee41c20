"""Interval score matching (LucidDreamer, arXiv:2311.11284)."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser
from dreamprop.guidance.noising import ddim_step, signal
from dreamprop.guidance.protocol import Draw


def ism(denoiser: Denoiser, z: Tensor, draw: Draw, scale: Tensor, *, delta_t: int, delta_s: int) -> Tensor:
    """What the prompt changes between two neighbouring levels of one deterministic path.

        eps_hat(x_t, t, y) - eps(x_s, s, empty),   s = t - delta_T

    The picture is inverted by DDIM without a prompt, 0 -> delta_S -> 2 delta_S -> ... -> s -> t, so that no noise is
    drawn; eps_hat is the prediction with classifier-free guidance, and eps(x_s, s, empty) the one that leads from x_s
    to x_t. Times w(t) this is the gradient with respect to z.

    Every hop is one call of the U-Net, with the pictures that have not yet reached their s; then come one call with N
    pictures for the last hop and one with 2 N.

    The path begins at the picture itself, of which the model is asked as of timestep 0, and an interval that would
    begin before it begins there. The published code mixes noise of the lowest level into the picture first.

    Args:
        denoiser: the model, told the prompt of each picture.
        z: [N, C, h, w] pictures in [-1, 1] or their latents.
        draw: timesteps t; its noise is not used.
        scale: [N, 1, 1, 1] of classifier-free guidance.
        delta_t: delta_T, the interval in timesteps.
        delta_s: delta_S, the longest hop on the way to s in timesteps.

    Returns:
        [N, C, h, w]
    """
    alphas_cumprod, t = denoiser.alphas_cumprod, draw.timesteps
    s = (t - delta_t).clamp(min=0)
    # with the longest paths in front, those that are on their way are the first few: how many, the host knows
    order = torch.argsort(s, descending=True, stable=True)
    starts = [max(one - delta_t, 0) for one in draw.host_timesteps]
    x, ends, here = z[order], s[order], torch.zeros_like(s)
    for reached in range(0, max(starts, default=0), delta_s):
        count = sum(start > reached for start in starts)
        there = ends.clamp(max=reached + delta_s)
        eps = denoiser.unconditional(x[:count], here[:count])
        hop = ddim_step(
            x[:count], eps, signal(alphas_cumprod, here[:count]), signal(alphas_cumprod, there[:count])
        )
        x, here = torch.cat([hop, x[count:]]), there
    x = x[torch.argsort(order)]
    eps_s = denoiser.unconditional(x, s)
    x = ddim_step(x, eps_s, signal(alphas_cumprod, s), signal(alphas_cumprod, t))
    return denoiser.guided(x, t, scale) - eps_s
