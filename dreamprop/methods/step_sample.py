"""Everything random in one step of a method, drawn from generators keyed by (seed, step) and by nothing else.

Legend: B pictures, H and V pixels down and across.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.guidance.sds import SDS, Draw
from dreamprop.methods.config import DataConfig
from dreamprop.rng import generator
from dreamprop.scenes import background, cameras
from dreamprop.scenes.config import MaterialConfig


@dataclass(frozen=True)
class Draws:
    """What one step draws; on the CPU."""

    size: tuple[int, int, int]
    """B, H, V"""
    uniform: Tensor
    """[B, cameras.UNIFORMS]"""
    normal: Tensor
    """[B, cameras.NORMALS]"""
    shift: Tensor
    """[B H V] where samples lie in their intervals"""
    background: Tensor
    """[B, background.UNIFORMS]"""
    lit: bool
    """Whether a lamp shines."""
    textureless: bool
    """Whether matter is white."""
    guidance: Draw


def draw(data: DataConfig, material: MaterialConfig, guidance: SDS, seed: int, step: int) -> Draws:
    """The draws of a step."""
    batch, height, width = data.size(step)
    uniform, normal = cameras.draw(batch, generator(seed, step, "cameras"))
    lit = textureless = False
    if step >= material.ambient_only_steps:
        a, b = torch.rand(2, generator=generator(seed, step, "shading")).tolist()
        lit, textureless = a < material.diffuse_prob, b < material.textureless_prob
    return Draws(
        size=(batch, height, width),
        uniform=uniform,
        normal=normal,
        shift=torch.rand(batch * height * width, generator=generator(seed, step, "rays")),
        background=torch.rand(batch, background.UNIFORMS, generator=generator(seed, step, "background")),
        lit=lit,
        textureless=lit and textureless,
        guidance=guidance.draw(batch, step, generator(seed, step, "guidance")),
    )
