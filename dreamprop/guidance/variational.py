"""A guidance by variational score distillation: its second U-Net is a low-rank correction of the first (`lora.py`).

The corrections phi of a state are parameters beside those of its scene. Their gradient is part of the drift, and the
update applies it once, in order: evaluations that are thrown away leave no trace in them.

Legend: W states, N pictures, those of a state together, C channels of what the U-Net sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dreamprop.guidance.denoiser import to_epsilon
from dreamprop.guidance.lora import LoRA
from dreamprop.guidance.protocol import Draw, Pictures
from dreamprop.guidance.score_distillation import ScoreDistillation
from dreamprop.guidance.vsd import Prediction, denoising_errors, vsd
from dreamprop.utils.transfer import filled


@dataclass(frozen=True)
class VSD:
    """A score distillation whose baseline is learnt: a `Guidance` with parameters of its own."""

    base: ScoreDistillation
    """Model, prompt, draws, schedules, weights and bounds, as all losses have them; its own loss is not asked."""
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

    def gradient(self, pictures: Pictures, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What to push, and where: `ScoreDistillation.push` by a loss that asks the corrected copy too."""
        predict = self._corrected(pictures, params)

        def eps(noisy: Tensor, timesteps: Tensor) -> Tensor:
            a = self.base.model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            return to_epsilon(predict(noisy, timesteps), noisy, a, self.base.model.prediction)

        return self.base.push(pictures, partial(vsd, corrected=eps))

    def training_loss(self, z: Tensor, pictures: Pictures, params: Mapping[str, Tensor]) -> Tensor | None:
        """The corrections' own losses, summed over states: each is a mean over pictures z, which are held constant."""
        model, training = self.base.model, pictures.draw.training
        assert training is not None, "draws of a step are those of its guidance"
        errors = denoising_errors(
            z.detach(),
            training,
            model.alphas_cumprod,
            model.prediction,
            corrected=self._corrected(pictures, params),
        )
        shares = filled([1 / count for count in pictures.counts for _ in range(count)], errors.device)
        return (errors * shares).sum()

    def _corrected(self, pictures: Pictures, params: Mapping[str, Tensor]) -> Prediction:
        """What the corrected copy predicts, told the prompt and the camera of each of N pictures."""
        text = self.base.prompt.embeddings(pictures.elevation, pictures.azimuth).chunk(2)[1]
        return lambda noisy, timesteps: self.lora.predict(
            params, pictures.counts, noisy, timesteps, text, pictures.pose
        )
