"""What is behind a scene. A background that changes every step keeps density from hiding in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

UNIFORMS = 5
"""How many draws a background takes."""


def soft(uniform: Tensor, height: int) -> Tensor:
    """Pale or dim tints with a gentle vertical gradient.

    Args:
        uniform: [N, UNIFORMS] in [0, 1).
        height: H in pixels.

    Returns:
        [N, 3, H, 1] in [0, 1].
    """
    grey = 0.25 + 0.6 * uniform[:, :1, None]  # [N, 1, 1]
    slope = 0.12 * (2 * uniform[:, 1:2, None] - 1)
    ramp = torch.linspace(-1, 1, height, device=uniform.device)
    return (0.8 * grey + 0.2 * uniform[:, 2:, None] + slope * ramp).clamp(0, 1)[..., None]


def solid(color: Sequence[float], device: torch.device) -> Tensor:
    """One colour [1, 3, 1, 1]."""
    return torch.tensor(list(color), device=device).view(1, 3, 1, 1)
