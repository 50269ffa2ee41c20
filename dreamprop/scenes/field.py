"""What a radiance field offers to the renderer and to a method.

Legend: W states whose parameters are stacked, M points a state, C cells along a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sampled:
    """What a field is at M points in each of W states."""

    density: Tensor
    """[W, M] optical depth per unit of length."""
    color: Tensor
    """[W, M, 3] red, green and blue in [0, 1]."""
    normal: Tensor | None
    """[W, M, 3] unit vectors against the gradient of the density; ``None`` where they were not asked for."""


class Field(Protocol):
    """A radiance field in the ball of `radius` around the origin; every method is a pure function of its arguments."""

    @property
    def radius(self) -> float:
        """Radius of the ball that the field fills, in units of length."""
        ...

    @property
    def grows(self) -> bool:
        """Whether the field has a resolution that `grow` changes."""
        ...

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Parameters and buffers of one state at step 0."""
        ...

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of parameters by what an optimiser may treat apart."""
        ...

    def query(self, params: Tensors, points: Tensor, normals: bool = False) -> Sampled:
        """The field of each state at its points [W, M, 3]."""
        ...

    def occupancy_mask(self, params: Tensors, buffers: Tensors, density: float) -> Tensor | None:
        """Which cells [W, C, C, C] (bool; x, y, z) of the cube around the ball may exceed a density; None: all.

        The density is lowered to the mean of the field where that is less, as nerfacc's occupancy grids have it: a
        scene that is thin everywhere is not skipped as a whole.
        """
        ...

    def update_occupancy(
        self, params: Tensors, buffers: Tensors, step: int, generator: torch.Generator
    ) -> Tensors:
        """Buffers of one state that enters a step with these parameters."""
        ...

    def updates_occupancy(self, step: int) -> bool:
        """Whether `update_occupancy` looks at the parameters that enter a step."""
        ...

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """Buffers of W states as pictures of a result need them: nothing lags behind the parameters."""
        ...

    def grow(self, params: Tensors, moments: Tensors, resolution: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments of one state at another resolution."""
        ...

    def total_variation(self, params: Tensors) -> Tensor:
        """Mean squared difference [W] between neighbours (total variation)."""
        ...


def stack(parts: list[Tensors]) -> Tensors:
    """Tensors of W states as one tensor [W, ...] a name."""
    if len(parts) == 1:
        return {name: t[None] for name, t in parts[0].items()}
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
