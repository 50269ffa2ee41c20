"""In what the pipelines of diffusers differ: how prompts become what the U-Net is told, and latents pictures.

Legend: B pictures, C x H x W a latent; L tokens, D features of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Texts = str | list[str]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the U-Net is told of each picture."""

    text: Tensor
    """[B, L, D]"""
    added: dict[str, Tensor] = field(default_factory=dict)
    """[B, ...] what else, by the names that the U-Net has for it."""

    def select(self, pictures: Tensor) -> Conditioning:
        """The same of pictures [N] int64, which may be named several times."""
        return Conditioning(
            self.text[pictures], {name: value[pictures] for name, value in self.added.items()}
        )

    def __add__(self, other: Conditioning) -> Conditioning:
        """These pictures, then the others."""
        added = {name: torch.cat([value, other.added[name]]) for name, value in self.added.items()}
        return Conditioning(torch.cat([self.text, other.text]), added)


@dataclass(frozen=True)
class Request:
    """Pictures that a pipeline is asked for."""

    prompt: Texts
    """Of each picture, or of all."""
    negative_prompt: Texts | None
    """What guidance leads away from."""
    size: tuple[int, int]
    """Height and width in pixels."""
    count: int
    """Pictures of each prompt."""
    guided: bool
    """Whether there is guidance."""


class Kind(Protocol):
    """A kind of pipeline."""

    def encode(self, pipe: Any, asked: Request) -> tuple[Conditioning, Conditioning]:
        """What the U-Net is told with the prompts and without them, which is the same where there is no guidance.

        Raises:
            ValueError: the pipeline refuses a prompt or the size.
        """
        ...

    def decode(self, pipe: Any, latents: Tensor, output_type: str) -> Any:
        """The pipeline's own output: pictures of latents [B, C, H, W], or for `latent` these."""
        ...


class StableDiffusion:
    """`StableDiffusionPipeline`, of versions 1 and 2."""

    def encode(self, pipe: Any, asked: Request) -> tuple[Conditioning, Conditioning]:
        """Text alone."""
        pipe.check_inputs(asked.prompt, *asked.size, None, asked.negative_prompt)
        text, negative = pipe.encode_prompt(
            asked.prompt,
            pipe._execution_device,
            asked.count,
            asked.guided,
            negative_prompt=asked.negative_prompt,
        )
        return Conditioning(text), Conditioning(negative if asked.guided else text)

    def decode(self, pipe: Any, latents: Tensor, output_type: str) -> Any:
        """Decoded, and looked at by the safety checker, if the pipeline has one."""
        from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

        if output_type == "latent":
            return StableDiffusionPipelineOutput(images=latents, nsfw_content_detected=None)
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
        decoded, flagged = pipe.run_safety_checker(decoded, pipe._execution_device, latents.dtype)
        shown = [True] * len(latents) if flagged is None else [not flag for flag in flagged]
        pictures = pipe.image_processor.postprocess(decoded, output_type=output_type, do_denormalize=shown)
        return StableDiffusionPipelineOutput(images=pictures, nsfw_content_detected=flagged)


class StableDiffusionXL:
    """`StableDiffusionXLPipeline` (arXiv:2307.01952), whose U-Net hears of the size of pictures as well."""

    def encode(self, pipe: Any, asked: Request) -> tuple[Conditioning, Conditioning]:
        """Text, the pooled text of the second encoder, and the size: original, without a cut, and as wanted."""
        pipe.check_inputs(asked.prompt, None, *asked.size, None, asked.negative_prompt)
        text, negative, pooled, negative_pooled = pipe.encode_prompt(
            asked.prompt, device=pipe._execution_device, num_images_per_prompt=asked.count,
            do_classifier_free_guidance=asked.guided, negative_prompt=asked.negative_prompt,
        )  # fmt: skip
        encoder = pipe.text_encoder_2
        width = pooled.shape[-1] if encoder is None else encoder.config.projection_dim
        ids = pipe._get_add_time_ids(
            asked.size, (0, 0), asked.size, text.dtype, text_encoder_projection_dim=int(width)
        )
        ids = ids.to(text.device).repeat(len(text), 1)
        prompted = Conditioning(text, {"text_embeds": pooled, "time_ids": ids})
        if not asked.guided:
            return prompted, prompted
        return prompted, Conditioning(negative, {"text_embeds": negative_pooled, "time_ids": ids})

    def decode(self, pipe: Any, latents: Tensor, output_type: str) -> Any:
        """Decoded in single precision where half overflows, and marked, if the pipeline does that."""
        from diffusers.pipelines.stable_diffusion_xl import StableDiffusionXLPipelineOutput

        if output_type == "latent":
            return StableDiffusionXLPipelineOutput(images=latents)
        vae, half = pipe.vae, pipe.vae.dtype
        upcast = half == torch.float16 and vae.config.force_upcast
        if upcast:
            vae.to(dtype=torch.float32)
            latents = latents.float()
        latents = latents / vae.config.scaling_factor
        mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            shift, scale = (torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (mean, std))
            latents = latents * scale + shift
        decoded = vae.decode(latents, return_dict=False)[0]
        if upcast:
            vae.to(dtype=half)
        if pipe.watermark is not None:
            decoded = pipe.watermark.apply_watermark(decoded)
        pictures = pipe.image_processor.postprocess(decoded, output_type=output_type)
        return StableDiffusionXLPipelineOutput(images=pictures)


KINDS: dict[str, Kind] = {
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
}
"""Kinds of pipelines by the name of their class in diffusers."""


def kind_of(pipe: Any) -> Kind:
    """The kind that a pipeline is of.

    Raises:
        ValueError: it is of none that is known.
    """
    import diffusers

    for name, kind in KINDS.items():
        if isinstance(pipe, getattr(diffusers, name)):
            return kind
    raise ValueError(
        f"pipe must be a {' or '.join(KINDS)}, got {type(pipe).__name__}; give Denoising a denoiser of your own"
    )
