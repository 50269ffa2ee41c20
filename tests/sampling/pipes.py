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


def seeded(seed: int = 3) -> torch.Generator:
    """A generator as a user of the pipeline makes it."""
    return torch.Generator().manual_seed(seed)


def network(samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
    """What stands for a network: bounded, and another function for every timestep and picture."""
    phase = (0.01 * timesteps + pictures).view(-1, 1, 1, 1).to(samples)
    return torch.sin(samples + phase)
