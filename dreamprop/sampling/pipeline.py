"""A text-to-image pipeline of diffusers taken apart: prompts, U-Net and autoencoder, without its loop.

Legend: B pictures, C x H x W a latent; N latents that the U-Net sees in one call; T timesteps of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypedDict

import torch
from torch import Tensor

from dreamprop.guidance.denoiser import to_epsilon
from dreamprop.sampling.kinds import Conditioning, Request, kind_of
from dreamprop.solver.solution import Stats

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
"""What pictures come out as."""


class PipelineArguments(TypedDict, total=False):
    """What a sampler takes as the pipeline has it, and hands to `Prompted`, which says what each is."""

    negative_prompt: str | Sequence[str] | None
    height: int | None
    width: int | None
    guidance_scale: float
    num_images_per_prompt: int
    generator: torch.Generator | list[torch.Generator] | None
    latents: Tensor | None
    output_type: str


class Prompted:
    """Pictures that a pipeline is asked for: a `Denoiser` that knows their prompts, and what goes on before and behind
    a sampler.

    Its arguments are those of the pipeline, and mean the same.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`; it is left as it is.
        prompt: of each picture, or of all.
        negative_prompt: what guidance leads away from; nothing by default.
        height, width: in pixels; by default the U-Net's.
        guidance_scale: s of eps_u + s (eps_c - eps_u) (arXiv:2207.12598); up to 1 there is no guidance.
        num_images_per_prompt: pictures of each prompt.
        generator: of the noise that is begun from, or one for each picture; the noise that a sampler adds is keyed by
            a number drawn from it.
        latents: [B, C, H, W] standard normal noise to begin from instead.
        output_type: what pictures come out as: `pil`, `np`, `pt` or, before they are decoded, `latent`.

    Raises:
        ValueError: an argument is out of range, or the pipeline is of another kind.
    """

    @torch.no_grad()
    def __init__(
        self,
        pipe: Any,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> None:
        from diffusers.utils.torch_utils import randn_tensor

        self._kind = kind_of(pipe)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(
                f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}; use pil"
            )
        if negative_prompt is not None and isinstance(prompt, str) != isinstance(negative_prompt, str):
            raise ValueError(
                "negative_prompt must be a list where prompt is one, and a text where it is one, got "
                f"{type(negative_prompt).__name__}; give as many"
            )
        if not isinstance(num_images_per_prompt, int) or num_images_per_prompt < 1:
            raise ValueError(
                f"num_images_per_prompt must be an integer >= 1, got {num_images_per_prompt!r}; use 1"
            )
        if not 0 <= guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale must be >= 0 and finite, got {guidance_scale}; use 7.5")
        prompts = prompt if isinstance(prompt, str) else list(prompt)
        negative = negative_prompt
        if negative is not None and not isinstance(negative, str):
            negative = list(negative)
        side = pipe.unet.config.sample_size
        rows, columns = (side, side) if isinstance(side, int) else side
        height, width = height or rows * pipe.vae_scale_factor, width or columns * pipe.vae_scale_factor
        self.pipe, self.guidance_scale, self._output_type = pipe, float(guidance_scale), output_type
        self._device = pipe._execution_device
        self.guided = guidance_scale > 1 and pipe.unet.config.time_cond_proj_dim is None
        """Whether the U-Net is asked with and without the prompt."""
        request = Request(prompts, negative, (height, width), num_images_per_prompt, self.guided)
        self._prompted, self._negative = self._kind.encode(pipe, request)
        text, shrink = self._prompted.text, pipe.vae_scale_factor
        shape = (len(text), pipe.unet.config.in_channels, height // shrink, width // shrink)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._device, dtype=text.dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(
                f"latents must have the shape {shape}, got {tuple(latents.shape)}; give one for each picture"
            )
        self.latents: Tensor = latents.to(self._device)
        """[B, C, H, W] standard normal noise to begin from."""
        many = generator if isinstance(generator, list) else [generator]
        drawn = [torch.randint(2**62, (), generator=g, device=g.device if g else "cpu") for g in many]
        self.seed = int(drawn[0])
        """Of the noise that a sampler adds."""
        self.seeds: int | list[int] = (
            [int(seed) for seed in drawn] if isinstance(generator, list) else self.seed
        )
        """The same, of each picture where each has a generator of its own."""

    def __call__(self, samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        """What the U-Net predicts, guided, in one call of it.

            u + s (c - u),    u told the negative prompt, c the prompt

        Args:
            samples: [N, C, H, W]
            timesteps: [N]
            pictures: [N] int64, which picture each is of.
        """
        prompted = self._prompted.select(pictures)
        if not self.guided:
            return self._predict(samples, timesteps, prompted)
        both = self._negative.select(pictures) + prompted
        uncond, cond = self._predict(torch.cat([samples] * 2), torch.cat([timesteps] * 2), both).chunk(2)
        return uncond + self.guidance_scale * (cond - uncond)

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] cumulative products of alpha (abar) by timestep of the training."""
        found: Tensor = self.pipe.scheduler.alphas_cumprod
        return found

    @cached_property
    def _log_levels(self) -> Tensor:
        return self.alphas_cumprod.double().log()

    def noise(self, samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        """The noise predicted in variance-preserving samples, whatever the U-Net predicts; timesteps may be fractions.

        Args:
            samples: [N, C, H, W] sqrt(abar) x_0 + sqrt(1 - abar) eps.
            timesteps: [N] float or int; between two of the training log abar is interpolated.
            pictures: [N] int64
        """
        levels = self.level(timesteps).to(samples).view(-1, 1, 1, 1)
        kind = self.pipe.scheduler.config.prediction_type
        return to_epsilon(self(samples, timesteps, pictures), samples, levels, kind)

    def level(self, timesteps: Tensor) -> Tensor:
        """abar [N] at timesteps [N] that may be fractions, by linear interpolation of log abar."""
        table = self._log_levels.to(timesteps.device)
        below = timesteps.double().floor().clamp(0, len(table) - 1)
        above = (below + 1).clamp(max=len(table) - 1)
        return torch.lerp(table[below.long()], table[above.long()], timesteps.double() - below).exp()

    @torch.no_grad()
    def output(self, latents: Tensor, stats: Stats) -> Any:
        """The pipeline's own output: `.images`, and `.stats` beside them.

        Args:
            latents: [B, C, H, W] of the pictures.
            stats: of the sampler.
        """
        output = self._kind.decode(self.pipe, latents, self._output_type)
        output.stats = stats
        return output

    def _predict(self, samples: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        found: Tensor = self.pipe.unet(
            samples, timesteps, encoder_hidden_states=conditioning.text, timestep_cond=self._timestep_cond(samples),
            added_cond_kwargs=conditioning.added or None, return_dict=False,
        )[0]  # fmt: skip
        return found

    def _timestep_cond(self, samples: Tensor) -> Tensor | None:
        """What a U-Net that was distilled together with its guidance is told of the scale."""
        width = self.pipe.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.tensor(self.guidance_scale - 1).repeat(len(samples))
        found: Tensor = self.pipe.get_guidance_scale_embedding(scale, embedding_dim=width)
        return found.to(samples)
