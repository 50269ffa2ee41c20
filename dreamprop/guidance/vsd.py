"""Variational score distillation (ProlificDreamer, arXiv:2305.16213): scenes as samples of a distribution.

A second U-Net, the frozen one with low-rank corrections, learns the noise in pictures of the scenes as they are now.
What the frozen one wants of a picture beyond that is the gradient of a Kullback-Leibler divergence (eq. 9):

    grad_z L = w(t) (eps_hat(z_t; y, t) - eps_phi(z_t; y, t, c)),   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps

and the corrections phi descend at the same time along E ||eps_phi(z_t'; y, t', c) - eps'||^2 (eq. 8) with a draw t',
eps' of their own.

Legend: N pictures, C channels of what the U-Net sees, T timesteps.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser
from dreamprop.guidance.noising import add_noise
from dreamprop.guidance.protocol import Draw

Prediction = Callable[[Tensor, Tensor], Tensor]
"""What a U-Net predicts [N, C, h, w] of noisy pictures [N, C, h, w] at timesteps [N]."""


def vsd(denoiser: Denoiser, z: Tensor, draw: Draw, scale: Tensor, *, corrected: Prediction) -> Tensor:
    """What the model takes for noise beyond what its corrected copy, which knows the pictures, takes for noise.

        eps_hat(z_t; y, t) - eps_phi(z_t; y, t, c),   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps

    where eps_hat is the prediction with classifier-free guidance and eps_phi is without it. Times w(t) this is the
    gradient with respect to z. One call of the frozen U-Net with 2 N pictures, and one of the corrected with N.

    Args:
        denoiser: the frozen model, told the prompt of each picture.
        z: [N, C, h, w] pictures in [-1, 1] or their latents.
        draw: timesteps t and noise eps.
        scale: [N, 1, 1, 1] of classifier-free guidance.
        corrected: eps_phi, told prompt and camera of each picture.

    Returns:
        [N, C, h, w]
    """
    alphas_cumprod = denoiser.alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    noisy = add_noise(z, draw.noise, alphas_cumprod)
    return denoiser.guided(noisy, draw.timesteps, scale) - corrected(noisy, draw.timesteps)


def denoising_errors(
    z: Tensor, draw: Draw, alphas_cumprod: Tensor, kind: str, *, corrected: Prediction
) -> Tensor:
    """Mean squares [N] of what the corrected copy predicts wrongly of pictures whose noise is known.

        mean || out(z_t'; y, t', c) - target ||^2

    in the terms that the model was trained in: the target is eps', or v = sqrt(abar) eps' - sqrt(1 - abar) z
    (arXiv:2202.00512), or z.

    Args:
        z: [N, C, h, w] outside the graph.
        draw: timesteps t' and noise eps', [N, ...].
        alphas_cumprod: [T] abar by timestep.
        kind: `epsilon`, `v_prediction` or `sample`.
        corrected: its raw prediction.
    """
    a = alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    out = corrected(add_noise(z, draw.noise, a), draw.timesteps)
    targets = {
        "epsilon": lambda: draw.noise,
        "v_prediction": lambda: a.sqrt() * draw.noise - (1 - a).sqrt() * z,
        "sample": lambda: z,
    }
    return (out - targets[kind]()).square().mean((1, 2, 3))
