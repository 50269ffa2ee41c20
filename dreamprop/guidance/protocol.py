"""What a distillation asks of its guidance: draws of a step, and which way pictures should change.

A guidance may learn while it guides: its own parameters are then part of the state, beside those of the scene.

Legend: W states, N pictures, those of a state together, C channels of what the diffusion model sees.
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
class OwnParameters:
    """What W states hold of a guidance's own parameters, and what else those that learn are told of pictures."""

    params: Mapping[str, Tensor]
    """[W, ...] by name, in the graph; empty for a guidance that has none"""
    counts: Sequence[int]
    """[W] pictures of each state; N together"""
    pose: Tensor
    """[N, 16] matrices from camera to world, row by row"""


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

    def gradient(
        self,
        images: Tensor,
        elevation: Tensor,
        azimuth: Tensor,
        draw: Draw,
        steps: Sequence[int],
        own: OwnParameters | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What to push, and where.

        Args:
            images: [N, 3, H, V] in [0, 1], in the graph.
            elevation, azimuth: [N] of their cameras, in degrees.
            draw: of all N, on the device of the images.
            steps: [N] the step of the state that each belongs to.
            own: what the states hold of the guidance's own parameters; needed by one that has some.

        Returns:
            z [N, C, h, w] in the graph, and the gradient of the loss with respect to it, detached.
        """
        ...

    def training_loss(
        self, z: Tensor, elevation: Tensor, azimuth: Tensor, draw: Draw, own: OwnParameters
    ) -> Tensor | None:
        """What its own parameters descend along: a scalar in their graph, summed over states; None where it has none.

        Args:
            z: [N, C, h, w] what `gradient` made of the pictures.
            elevation, azimuth, draw, own: as for `gradient`.
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

    def training_loss(
        self, z: Tensor, elevation: Tensor, azimuth: Tensor, draw: Draw, own: OwnParameters
    ) -> Tensor | None:
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
