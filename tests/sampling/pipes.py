"""A tiny text-to-image pipeline with random weights, and schedulers for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.guidance import tiny

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    "DDPMScheduler": {"clip_sample": False},
    "DPMSolverMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": {},
    "UniPCMultistepScheduler": {},
}
NOISY = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")
"""Those that add noise in their steps."""


def scheduler(name: str, **options: Any) -> Any:
    """A scheduler of diffusers with Stable Diffusion's betas."""
    return getattr(diffusers, name)(**BETAS | SCHEDULERS.get(name, {}) | options)


def pipeline(folder: Path) -> Any:
    """The tiny latent model as diffusers loads it."""
    tiny.save(folder, latent=True)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder,
        dtype=torch.float32,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def xl_pipeline(folder: Path) -> Any:
    """The same with the parts of Stable Diffusion XL: two text encoders, and a U-Net that hears of sizes."""
    from transformers import CLIPTextModelWithProjection

    small = pipeline(folder)
    config = small.text_encoder.config
    config.projection_dim = 12
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        second = CLIPTextModelWithProjection(config)
        unet = diffusers.UNet2DConditionModel.from_config(
            {**small.unet.config, "cross_attention_dim": 32, "addition_embed_type": "text_time",
             "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 12}
        )  # fmt: skip
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=small.vae, unet=unet, scheduler=small.scheduler, text_encoder=small.text_encoder, text_encoder_2=second,
        tokenizer=small.tokenizer, tokenizer_2=small.tokenizer, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 3) -> torch.Generator:
    """A generator as a user of the pipeline makes it."""
    return torch.Generator().manual_seed(seed)


def network(samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
    """What stands for a network: bounded, and another function for every timestep and picture."""
    phase = (0.01 * timesteps + pictures).view(-1, 1, 1, 1).to(samples)
    return torch.sin(samples + phase)
