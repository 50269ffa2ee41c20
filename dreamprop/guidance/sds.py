"""Score distillation sampling (DreamFusion, arXiv:2209.14988, eq. 3)."""

from __future__ import annotations

from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser
from dreamprop.guidance.noising import add_noise
from dreamprop.guidance.protocol import Draw


def sds(denoiser: Denoiser, z: Tensor, draw: Draw, scale: Tensor) -> Tensor:
    """What the model takes for noise beyond the noise that was added.

        eps_hat(z_t, t, y) - eps,   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps

    where eps_hat is the prediction with classifier-free guidance. Times w(t) this is the gradient with respect to z.
    One call of the U-Net with 2 N pictures.

    Args:
        denoiser: the model, told the prompt of each picture.
        z: [N, C, h, w] pictures in [-1, 1] or their latents.
        draw: timesteps t and noise eps.
        scale: [N, 1, 1, 1] of classifier-free guidance.

    Returns:
        [N, C, h, w]
    """
    alphas_cumprod = denoiser.alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    noisy = add_noise(z, draw.noise, alphas_cumprod)
    return denoiser.guided(noisy, draw.timesteps, scale) - draw.noise
