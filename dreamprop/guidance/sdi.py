"""Score distillation via inversion (arXiv:2405.15891)."""

from __future__ import annotations

from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser
from dreamprop.guidance.noising import add_noise, ddim_step, signal
from dreamprop.guidance.protocol import Draw


def sdi(
    denoiser: Denoiser,
    z: Tensor,
    draw: Draw,
    scale: Tensor,
    *,
    inversion_steps: int,
    inversion_scale: float,
) -> Tensor:
    """Score distillation with the noise that leads from the picture to the level of t, in place of a drawn one.

        eps_hat(z_t, t, y) - kappa,   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) kappa

    where x_t is the picture inverted by DDIM in steps of one length, told the prompt with a guidance of its own (below
    0: away from the prompt), and kappa = (x_t - sqrt(abar_t) z) / sqrt(1 - abar_t) the noise in it, so that z_t = x_t.
    Times w(t) this is the gradient with respect to z. One call of the U-Net with 2 N pictures a step of the inversion,
    and one more.

    The published code adds a share of fresh noise to every step (eta = 0.3); here the inversion is deterministic. A
    timestep of 0 counts as 1, as there is no noise in a picture that stands for itself.

    Args:
        denoiser: the model, told the prompt of each picture.
        z: [N, C, h, w] pictures in [-1, 1] or their latents.
        draw: timesteps t; its noise is not used.
        scale: [N, 1, 1, 1] of classifier-free guidance at z_t.
        inversion_steps: how many steps lead from the picture to t.
        inversion_scale: of classifier-free guidance on the way.

    Returns:
        [N, C, h, w]
    """
    alphas_cumprod, t = denoiser.alphas_cumprod, draw.timesteps.clamp(min=1)
    x, here = z, t * 0
    for step in range(1, inversion_steps + 1):
        there = t * step // inversion_steps
        eps = denoiser.guided(x, here, inversion_scale)
        x, here = ddim_step(x, eps, signal(alphas_cumprod, here), signal(alphas_cumprod, there)), there
    level = signal(alphas_cumprod, t)
    kappa = (x - level.sqrt() * z) / (1 - level).sqrt()
    return denoiser.guided(add_noise(z, kappa, level), t, scale) - kappa
