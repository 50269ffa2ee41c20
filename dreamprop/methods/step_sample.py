"""Everything random in one step of a method, drawn from generators keyed by (seed, step) and by nothing else.

Legend: B pictures, H and V pixels down and across.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.guidance.protocol import Draw, Guidance
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.rng import generator
from dreamprop.scenes import background, cameras
from dreamprop.utils.transfer import to_device


@dataclass(frozen=True)
class StepSample:
    """What one step draws: a function of (seed, step) and of nothing else."""

    size: tuple[int, int, int]
    """B pictures of H times V pixels."""
    uniform: Tensor
    """[B, cameras.UNIFORMS] numbers in [0, 1) that place the cameras and lights."""
    normal: Tensor
    """[B, cameras.NORMALS] standard normal numbers that perturb them."""
    shift: Tensor
    """[B H V] where samples lie in their intervals"""
    background: Tensor
    """[B, background.UNIFORMS of its type] numbers in [0, 1) that make the backgrounds."""
    shaded: bool
    """Whether the light is on."""
    textureless: bool
    """Whether the surface is white."""
    guidance: Draw


def draw_step(data: DataConfig, system: SystemConfig, guidance: Guidance, seed: int, step: int) -> StepSample:
    """The draws of a step, on the CPU."""
    batch, height, width = data.size(step)
    uniform, normal = cameras.draw(batch, generator(seed, step, "cameras"))
    shaded = textureless = False
    material, count = system.material, background.UNIFORMS[system.background_type]
    if step >= material.ambient_only_steps:
        a, b = torch.rand(2, generator=generator(seed, step, "shading")).tolist()
        shaded, textureless = a < material.diffuse_prob, b < material.textureless_prob
    return StepSample(
        size=(batch, height, width),
        uniform=uniform,
        normal=normal,
        shift=torch.rand(batch * height * width, generator=generator(seed, step, "rays")),
        background=torch.rand(batch, count, generator=generator(seed, step, "background")),
        shaded=shaded,
        textureless=shaded and textureless,
        guidance=guidance.draw(batch, step, generator(seed, step, "guidance")),
    )


def draw_steps(
    data: DataConfig,
    system: SystemConfig,
    guidance: Guidance,
    seed: int,
    steps: Sequence[int],
    device: torch.device,
) -> list[StepSample]:
    """The draws of several steps, brought to a device in one copy."""
    return to_device([draw_step(data, system, guidance, seed, step) for step in steps], device)
