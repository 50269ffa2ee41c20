"""What a distillation asks of its guidance: draws of a step, and which way pictures should change.

Legend: N pictures, C channels of what the diffusion model sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """The random part of a gradient."""

    timesteps: Tensor
    """[N] int64"""
    noise: Tensor
    """[N, C, h, w] standard normal"""
    posterior: Tensor | None
    """[N, C, h, w] standard normal, for the latents of pictures; None for a model of pixels"""
    host_timesteps: tuple[int, ...]
    """[N] the same timesteps where Python reads them without waiting for a device"""


class Guidance(Protocol):
    """Which way pictures should change, for the pictures of several states at once."""

    def draw(self, count: int, step: int, generator: torch.Generator) -> Draw:
        """The draws of one state with `count` pictures, on the CPU."""
        ...

    def resize(self, images: Tensor) -> Tensor:
        """Pictures [N, 3, H, V] at the resolution that `gradient` takes, differentiably."""
        ...

    def gradient(
        self, images: Tensor, elevation: Tensor, azimuth: Tensor, draw: Draw, steps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """What to push, and where.

        Args:
            images: [N, 3, H, V] in [0, 1], in the graph.
            elevation, azimuth: [N] of their cameras, in degrees.
            draw: of all N, on the device of the images.
            steps: [N] the step of the state that each belongs to.

        Returns:
            z [N, C, h, w] in the graph, and the gradient of the loss with respect to it, detached.
        """
        ...


def join(draws: Sequence[Draw]) -> Draw:
    """The draws of several states as one."""
    posteriors = [d.posterior for d in draws if d.posterior is not None]
    return Draw(
        torch.cat([d.timesteps for d in draws]),
        torch.cat([d.noise for d in draws]),
        torch.cat(posteriors) if posteriors else None,
        tuple(timestep for d in draws for timestep in d.host_timesteps),
    )
