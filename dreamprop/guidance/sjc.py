"""Score Jacobian chaining (arXiv:2212.00774): the score of noised pictures, averaged over the noise.

The paper adds noise without making the picture smaller, x + sigma n, and asks a denoiser D(x; sigma). Its perturb-and-
average score (eq. 8 to 10) is

    PAAS(x, sqrt(2) sigma) = E_n [score(x + sigma n; sigma)]                                  (8)
                           = E_n [(D(x + sigma n; sigma) - (x + sigma n)) / sigma^2]          (9)
                           = E_n [(D(x + sigma n; sigma) - x) / sigma^2] - E_n [n / sigma]    (10)

whose last term is zero. With sigma = sqrt((1 - abar) / abar), x + sigma n is z_t / sqrt(abar) for z_t = sqrt(abar) x +
sqrt(1 - abar) n. A model that predicts noise is the denoiser D(x + sigma n; sigma) = x + sigma n - sigma eps_hat(z_t),
and so

    -sigma (D(x + sigma n) - (x + sigma n)) / sigma^2 = eps_hat               as in (9)
    -sigma (D(x + sigma n) - x) / sigma^2             = eps_hat - n           as in (10) without its last term

Both have one mean; the second has the variance of n less. The published code descends along sigma times the score too,
that is with w(t) = 1 here (`weighting_strategy: uniform`); the score itself would be w = 1 / sigma.
"""

from __future__ import annotations

from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser
from dreamprop.guidance.noising import add_noise
from dreamprop.guidance.protocol import Draw


def sjc(denoiser: Denoiser, z: Tensor, draw: Draw, scale: Tensor, *, variance_reduction: bool) -> Tensor:
    """-sigma PAAS(z, sqrt(2) sigma), estimated with one noise a picture.

    With variance reduction this is what score distillation has for every draw: the two papers differ in w(t) alone.
    One call of the U-Net with 2 N pictures.

    Args:
        denoiser: the model, told the prompt of each picture.
        z: [N, C, h, w] pictures in [-1, 1] or their latents.
        draw: timesteps t, which stand for sigma, and noise n.
        scale: [N, 1, 1, 1] of classifier-free guidance.
        variance_reduction: whether the estimate is that of eq. 10, else of eq. 9.

    Returns:
        [N, C, h, w]
    """
    alphas_cumprod = denoiser.alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    found = denoiser.guided(add_noise(z, draw.noise, alphas_cumprod), draw.timesteps, scale)
    return found - draw.noise if variance_reduction else found
