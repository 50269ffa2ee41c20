"""Score distillation sampling (arXiv:2209.14988, eq. 3), for models of pixels and of latents.

    grad_z L = w(t) (eps_hat(z_t; y, t) - eps),   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps
    eps_hat  = eps_u + s (eps_c - eps_u)

where z is the picture in [-1, 1] or its latent. All pictures of a window go through one call of the U-Net.

Legend: N pictures, B pictures of a state, C channels of what the U-Net sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.guidance.config import GuidanceConfig
from dreamprop.guidance.diffusion import Model
from dreamprop.guidance.prompt import Prompt
from dreamprop.guidance.protocol import Draw
from dreamprop.guidance.weighting import WEIGHTINGS
from dreamprop.schedule import Schedule, schedule
from dreamprop.utils.transfer import filled


def to_epsilon(prediction: Tensor, noisy: Tensor, alphas_cumprod: Tensor, kind: str) -> Tensor:
    """The noise that a prediction amounts to; v as in arXiv:2202.00512, v = sqrt(abar) eps - sqrt(1 - abar) z.

    Args:
        prediction, noisy: [N, C, h, w].
        alphas_cumprod: [N, 1, 1, 1] cumulative.
        kind: `epsilon`, `v_prediction` or `sample`.
    """
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return alphas_cumprod.sqrt() * prediction + (1 - alphas_cumprod).sqrt() * noisy
    return (noisy - alphas_cumprod.sqrt() * prediction) / (1 - alphas_cumprod).sqrt()


@dataclass(frozen=True)
class SDS:
    """Score distillation from a model towards a prompt; numbers may be schedules by step."""

    model: Model
    prompt: Prompt
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
        return Draw(timesteps, noise, posterior)

    def resize(self, images: Tensor) -> Tensor:
        """Pictures [N, 3, H, V] at the model's resolution."""
        size = (self.side, self.side)
        if tuple(images.shape[-2:]) == size:
            return images
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def gradient(
        self, images: Tensor, elevation: Tensor, azimuth: Tensor, draw: Draw, steps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """What to push, and where.

        Args:
            images: [N, 3, H, V] in [0, 1] at the model's resolution, in the graph.
            elevation, azimuth: [N] of their cameras, in degrees.
            draw: of all N, on the device of the images.
            steps: [N] the step of the state that each belongs to.

        Returns:
            z [N, C, h, w] in the graph, and the gradient of the loss with respect to it, detached. The loss of a state
            is the mean over its pictures, so callers divide by B.
        """
        model = self.model
        z = model.encode(images, draw.posterior)
        with torch.no_grad():
            timesteps, noise = draw.timesteps, draw.noise
            alphas_cumprod = model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            noisy = alphas_cumprod.sqrt() * z + (1 - alphas_cumprod).sqrt() * noise
            text = self.prompt.embeddings(elevation, azimuth)
            out = model.predict(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), text)
            eps_uncond, eps_text = out.chunk(2)
            scale = self._by_step(self.guidance_scale, steps, z)
            epsilon = to_epsilon(
                eps_uncond + scale * (eps_text - eps_uncond), noisy, alphas_cumprod, model.prediction
            )
            grad = WEIGHTINGS[self.weighting](alphas_cumprod) * (epsilon - noise)
            if self.grad_clip is not None:
                bound = self._by_step(self.grad_clip, steps, z)
                grad = torch.maximum(torch.minimum(grad, bound), -bound)
        return z, grad

    @staticmethod
    def _by_step(value: Schedule, steps: Sequence[int], like: Tensor) -> Tensor:
        at = schedule(value)
        return filled([at(s) for s in steps], like.device).view(-1, 1, 1, 1)
