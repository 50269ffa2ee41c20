"""Variational score distillation (ProlificDreamer, arXiv:2305.16213): scenes as samples of a distribution.

A second U-Net, the frozen one with low-rank corrections, learns the noise in pictures of the scenes as they are now. What
the frozen one wants of a picture beyond that is the gradient of a Kullback-Leibler divergence (eq. 9 of the paper):

    grad_z L = w(t) (eps_hat(z_t; y, t) - eps_phi(z_t; y, t, c)),   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps

and the corrections phi descend at the same time along E ||eps_phi(z_t'; y, t', c) - eps'||^2 (eq. 8) with a draw t', eps'
of their own. phi is part of the state: its gradient is part of the drift and applied by the update, once and in order.

Legend: W states, N pictures, those of a state together, C channels of what the U-Net sees, L tokens, D features of a
token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser, to_epsilon
from dreamprop.guidance.lora import LoRA
from dreamprop.guidance.noising import add_noise
from dreamprop.guidance.protocol import Draw, OwnParameters
from dreamprop.guidance.score_distillation import ScoreDistillation
from dreamprop.utils.transfer import filled

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


@dataclass(frozen=True)
class VSD:
    """A score distillation whose baseline is learnt: a `Guidance` with parameters of its own."""

    base: ScoreDistillation
    """Model, prompt, draws, schedules, weights and bounds, as all losses have them."""
    lora: LoRA
    """The corrected copy of the model's U-Net."""

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Corrections that change nothing yet."""
        return self.lora.init(generator)

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The corrections, and the embedding of the camera."""
        return self.lora.groups()

    def draw(self, count: int, step: int, generator: torch.Generator) -> Draw:
        """The draws of one state: those of the gradient, and others like them for the corrections."""
        drawn = self.base.draw(count, step, generator)
        return replace(drawn, training=self.base.draw(count, step, generator))

    def resize(self, images: Tensor) -> Tensor:
        """Pictures [N, 3, H, V] at the model's resolution."""
        return self.base.resize(images)

    def gradient(
        self,
        images: Tensor,
        elevation: Tensor,
        azimuth: Tensor,
        draw: Draw,
        steps: Sequence[int],
        own: OwnParameters,
    ) -> tuple[Tensor, Tensor]:
        """What to push, and where: `ScoreDistillation.gradient` by `vsd`."""
        predict = self._corrected(own, elevation, azimuth)

        def eps(noisy: Tensor, timesteps: Tensor) -> Tensor:
            a = self.base.model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            return to_epsilon(predict(noisy, timesteps), noisy, a, self.base.model.prediction)

        loss = partial(vsd, corrected=eps)
        return replace(self.base, loss=loss).gradient(images, elevation, azimuth, draw, steps, own)

    def training_loss(
        self, z: Tensor, elevation: Tensor, azimuth: Tensor, draw: Draw, own: OwnParameters
    ) -> Tensor | None:
        """The corrections' own losses summed over states, each the mean over its pictures z, which are held constant."""
        assert draw.training is not None, "draws of a step are those of its guidance"
        model = self.base.model
        errors = denoising_errors(
            z.detach(),
            draw.training,
            model.alphas_cumprod,
            model.prediction,
            corrected=self._corrected(own, elevation, azimuth),
        )
        shares = filled([1 / count for count in own.counts for _ in range(count)], errors.device)
        return (errors * shares).sum()

    def _corrected(self, own: OwnParameters, elevation: Tensor, azimuth: Tensor) -> Prediction:
        """What the corrected copy predicts, told the prompt and the camera of each of N pictures."""
        text = self.base.prompt.embeddings(elevation, azimuth).chunk(2)[1]
        return lambda noisy, timesteps: self.lora.predict(
            own.params, own.counts, noisy, timesteps, text, own.pose
        )
