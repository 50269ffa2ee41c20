"""What is behind the solids of the procedural world.

Shapes: N pictures of `size` pixels a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(n: int, low: float, high: float, g: torch.Generator) -> Tensor:
    """n numbers between two, [n]."""
    return low + (high - low) * torch.rand(n, generator=g)


def background(n: int, g: torch.Generator, size: int = 32) -> Tensor:
    """Soft backgrounds: a pale or dim tint with a gentle vertical gradient, [n, 3, size, 1]."""
    grey = uniform(n, 0.25, 0.85, g)[:, None, None]  # [n, 1, 1]
    tint = torch.rand(n, 3, 1, generator=g)
    slope = uniform(n, -0.12, 0.12, g)[:, None, None]
    ramp = torch.linspace(-1, 1, size)
    return (0.8 * grey + 0.2 * tint + slope * ramp).clamp(0, 1)[..., None]


def colorful_background(n: int, g: torch.Generator, size: int) -> Tensor:
    """Backgrounds of any colour that blend into another one in any direction, one in five grey, [n, 3, size, size].

    They vary so much that matter of no fixed colour can pass for them.
    """
    ends = torch.rand(2, n, 3, generator=g)
    blend = 0.6 * torch.rand(n, 1, generator=g)
    near, far = ends[0], ends[0] + blend * (ends[1] - ends[0])
    grey = torch.rand(n, 1, generator=g) < 0.2
    near, far = (torch.where(grey, c.mean(1, keepdim=True), c)[..., None, None] for c in (near, far))
    turn = uniform(n, -math.pi, math.pi, g)[:, None, None]
    ramp = torch.linspace(-1, 1, size)
    along = 0.5 + 0.5 * (turn.cos() * ramp[None, :, None] + turn.sin() * ramp) / math.sqrt(
        2
    )  # [n, size, size]
    return (near + along[:, None] * (far - near)).clamp(0, 1)
