"""What is behind a scene. A background that changes every step keeps density from hiding in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamprop.scenes.config import RANDOM_COLOR, RANDOM_GRADIENT, SOLID_COLOR

UNIFORMS = {RANDOM_COLOR: 5, RANDOM_GRADIENT: 9, SOLID_COLOR: 0}
"""How many draws a background of each type takes."""
GREY = 0.2
"""Share of the gradients that have no colour."""


def random(kind: str, uniform: Tensor, height: int, width: int) -> Tensor:
    """Backgrounds [N, 3, H, 1 or V] of a random type from its draws [N, UNIFORMS[kind]]."""
    if kind == RANDOM_COLOR:
        return soft(uniform, height)
    return gradient(uniform, height, width)


def soft(uniform: Tensor, height: int) -> Tensor:
    """Pale or dim tints with a gentle vertical gradient.

    Args:
        uniform: [N, 5] in [0, 1).
        height: H in pixels.

    Returns:
        [N, 3, H, 1] in [0, 1].
    """
    grey = 0.25 + 0.6 * uniform[:, :1, None]  # [N, 1, 1]
    slope = 0.12 * (2 * uniform[:, 1:2, None] - 1)
    ramp = torch.linspace(-1, 1, height, device=uniform.device)
    return (0.8 * grey + 0.2 * uniform[:, 2:, None] + slope * ramp).clamp(0, 1)[..., None]


def gradient(uniform: Tensor, height: int, width: int) -> Tensor:
    """Any colour, blending by up to 0.6 of the way into any other one in any direction; one in five is grey.

    They vary so much that thin matter of no fixed colour can pass for them, as it can for `soft` ones.

    Args:
        uniform: [N, 9] in [0, 1).
        height, width: H, V in pixels.

    Returns:
        [N, 3, H, V] in [0, 1].
    """
    near, other = uniform[:, :3], uniform[:, 3:6]
    far = near + 0.6 * uniform[:, 6:7] * (other - near)
    grey = uniform[:, 7:8] < GREY
    near, far = (torch.where(grey, c.mean(1, keepdim=True), c)[..., None, None] for c in (near, far))
    turn = 2 * math.pi * uniform[:, 8, None, None]
    down = torch.linspace(-1, 1, height, device=uniform.device)[:, None]
    across = torch.linspace(-1, 1, width, device=uniform.device)
    along = 0.5 + (turn.cos() * down + turn.sin() * across) / math.sqrt(8)  # [N, H, V] in [0, 1]
    return near + along[:, None] * (far - near)


def solid(color: Sequence[float], device: torch.device) -> Tensor:
    """One colour [1, 3, 1, 1]."""
    return torch.tensor(list(color), device=device).view(1, 3, 1, 1)
