"""Distillation of a frozen diffusion model: what all losses share, for models of pixels and of latents.

    grad_z L = w(t) r(z, t, eps; y)

where z is the picture in [-1, 1] or its latent, and r is the loss's own (`losses.py`). Draws, sizes, latents, prompts,
schedules by step, weights and bounds are here. All pictures of a window go through the U-Net together.

Legend: N pictures, B pictures of a state, C channels of what the U-Net sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.guidance.config import GuidanceConfig
from dreamprop.guidance.denoiser import PromptedModel
from dreamprop.guidance.diffusion import Model
from dreamprop.guidance.losses import Loss
from dreamprop.guidance.prompt import Prompt
from dreamprop.guidance.protocol import Draw, NothingToLearn, Pictures
from dreamprop.guidance.sds import sds
from dreamprop.guidance.weighting import WEIGHTINGS
from dreamprop.schedule import Schedule, schedule
from dreamprop.utils.transfer import filled


@dataclass(frozen=True)
class ScoreDistillation(NothingToLearn):
    """Gradients from a model towards a prompt by one loss; numbers may be schedules by step."""

    model: Model
    prompt: Prompt
    loss: Loss = sds
    guidance_scale: Schedule = GuidanceConfig.guidance_scale
    weighting: str = GuidanceConfig.weighting_strategy
    min_step_percent: Schedule = GuidanceConfig.min_step_percent
    max_step_percent: Schedule = GuidanceConfig.max_step_percent
    grad_clip: Schedule | None = GuidanceConfig.grad_clip
    resolution: int = GuidanceConfig.resolution
    """Pixels along a side of what the model sees; 0: what it was trained on."""

    @property
    def side(self) -> int:
        """Pixels along a side of what the model sees."""
        return self.resolution or self.model.resolution

    def draw(self, count: int, step: int, generator: torch.Generator) -> Draw:
        """The draws of one state: timesteps uniform in the range of its step, and noise."""
        total = len(self.model.alphas_cumprod)
        low = min(round(total * schedule(self.min_step_percent)(step)), total - 1)
        high = min(round(total * schedule(self.max_step_percent)(step)), total - 1)
        if low > high:
            raise ValueError(
                f"min_step_percent must be <= max_step_percent, got timesteps {low} > {high} at step {step}; "
                "lower the first or raise the second"
            )
        timesteps = torch.randint(low, high + 1, (count,), generator=generator)
        shape = (count, self.model.channels, *(2 * (self.side // self.model.vae_scale_factor,)))
        noise = torch.randn(shape, generator=generator)
        posterior = torch.randn(shape, generator=generator) if self.model.vae is not None else None
        return Draw(timesteps, noise, posterior, tuple(timesteps.tolist()))

    def resize(self, images: Tensor) -> Tensor:
        """Pictures [N, 3, H, V] at the model's resolution."""
        size = (self.side, self.side)
        if tuple(images.shape[-2:]) == size:
            return images
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def gradient(self, pictures: Pictures, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What to push, and where, by the loss; it has no parameters."""
        return self.push(pictures, self.loss)

    def push(self, pictures: Pictures, loss: Loss) -> tuple[Tensor, Tensor]:
        """What to push, and where, by any loss.

        Args:
            pictures: at the model's resolution.
            loss: what is made of the model's predictions.

        Returns:
            z [N, C, h, w] in the graph, and the gradient of the loss with respect to it, detached. The loss of a state
            is the mean over its pictures, so callers divide by B.
        """
        model, draw, steps = self.model, pictures.draw, pictures.steps
        z = model.encode(pictures.images, draw.posterior)
        with torch.no_grad():
            text = self.prompt.embeddings(pictures.elevation, pictures.azimuth)
            denoiser = PromptedModel(model, text, self.prompt.empty)
            scale = self._by_step(self.guidance_scale, steps, z)
            alphas_cumprod = model.alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
            grad = WEIGHTINGS[self.weighting](alphas_cumprod) * loss(denoiser, z.detach(), draw, scale)
            if self.grad_clip is not None:
                bound = self._by_step(self.grad_clip, steps, z)
                grad = torch.maximum(torch.minimum(grad, bound), -bound)
        return z, grad

    @staticmethod
    def _by_step(value: Schedule, steps: Sequence[int], like: Tensor) -> Tensor:
        at = schedule(value)
        return filled([at(s) for s in steps], like.device).view(-1, 1, 1, 1)
