"""What a distillation asks of its guidance: draws of a step, and which way pictures should change.

A guidance may learn while it guides: its own parameters are then part of the state, beside those of the scene.

Legend: W states, N pictures, those of a state together, H and V pixels down and across, C channels, h rows
and w columns of what the diffusion model sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    training: Draw | None = None
    """Of all N again, for what the guidance learns from the pictures; None where it learns nothing."""


@dataclass(frozen=True)
class Pictures:
    """N pictures of W states, those of a state together, and what a guidance is told of each."""

    images: Tensor
    """[N, 3, H, V] in [0, 1] as `resize` makes them, in the graph."""
    elevation: Tensor
    """[N] of their cameras, in degrees"""
    azimuth: Tensor
    """[N] of their cameras, in degrees"""
    pose: Tensor
    """[N, 16] matrices from their cameras to the world, row by row"""
    draw: Draw
    """Of all N, on the device of the images."""
    steps: Sequence[int]
    """[N] the step of the state that each belongs to"""
    counts: Sequence[int]
    """[W] pictures of each state; N together"""


class Guidance(Protocol):
    """Which way pictures should change, for the pictures of several states at once."""

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The guidance's own parameters at step 0, on the CPU; their names begin with `guidance.`."""
        ...

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of its own parameters by what an optimiser may treat apart."""
        ...

    def draw(self, count: int, step: int, generator: torch.Generator) -> Draw:
        """The draws of one state with `count` pictures, on the CPU."""
        ...

    def resize(self, images: Tensor) -> Tensor:
        """Pictures [N, 3, H, V] at the resolution that `gradient` takes, differentiably."""
        ...

    def gradient(self, pictures: Pictures, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What to push, and where.

        Args:
            pictures: of W states.
            params: [W, ...] by name, the guidance's own parameters; empty for one that has none.

        Returns:
            z [N, C, h, w] in the graph, and the gradient of the loss with respect to it, detached.
        """
        ...

    def training_loss(self, z: Tensor, pictures: Pictures, params: Mapping[str, Tensor]) -> Tensor | None:
        """What its own parameters descend along: a scalar in their graph, summed over states; None where it has none.

        Args:
            z: [N, C, h, w] what `gradient` made of the pictures.
            pictures, params: as for `gradient`, the parameters in the graph.
        """
        ...


class NothingToLearn:
    """What a guidance without parameters of its own answers."""

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """No parameters."""
        return {}

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """No groups."""
        return {}

    def training_loss(self, z: Tensor, pictures: Pictures, params: Mapping[str, Tensor]) -> Tensor | None:
        """No loss."""
        return None


def join(draws: Sequence[Draw]) -> Draw:
    """The draws of several states as one."""
    posteriors = [d.posterior for d in draws if d.posterior is not None]
    training = [d.training for d in draws if d.training is not None]
    return Draw(
        torch.cat([d.timesteps for d in draws]),
        torch.cat([d.noise for d in draws]),
        torch.cat(posteriors) if posteriors else None,
        tuple(timestep for d in draws for timestep in d.host_timesteps),
        join(training) if training else None,
    )
