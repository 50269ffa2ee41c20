"""Light on a scene: colours as they are, a white surface in the light of one source, or both together
(arXiv:2209.14988, section 3.2).

Legend: W states, B pictures a state, N = W B, M points a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shading:
    """The sources of light and how strong they are."""

    light: Tensor
    """[N, 3] place of each picture's light"""
    ambient: Tensor
    """[W, 3] light from everywhere"""
    diffuse: Tensor
    """[W, 3] light of the source"""
    textureless: Tensor
    """[W] bool: the surface is white"""


def shade(shading: Shading, albedo: Tensor, normal: Tensor, points: Tensor, picture: Tensor) -> Tensor:
    """Lambert's law: `albedo * (ambient + diffuse * max(0, n . l))`.

    Args:
        albedo, normal, points: [W, M, 3].
        picture: [W, M] the picture that sees the point.

    Returns:
        Colours [W, M, 3].
    """
    towards = F.normalize(shading.light[picture] - points, dim=-1)
    facing = (normal * towards).sum(-1, keepdim=True).clamp(min=0)
    light = shading.ambient[:, None] + shading.diffuse[:, None] * facing
    white = shading.textureless[:, None, None]
    return albedo.masked_fill(white, 1.0) * light
