"""What a scene offers to a method: its parameters, its pictures, and how it changes besides the optimiser's steps.

Every method here is a pure function of its arguments.

Legend: W states whose parameters are stacked, B pictures a state, P points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

from dreamprop.scenes.field import Tensors
from dreamprop.scenes.rendered import PictureSpec, Rendered


class Scene(Protocol):
    """What is seen from all sides, in the ball of `radius` around the origin."""

    @property
    def radius(self) -> float:
        """Radius of the ball that the scene fills, in units of length."""
        ...

    @property
    def unread(self) -> Collection[str]:
        """Names of buffers that no drift reads: a guess is none the worse for what they hold."""
        ...

    @property
    def known_sizes(self) -> bool:
        """Whether the sizes behind a boundary follow from the step alone."""
        ...

    @property
    def num_particles(self) -> int:
        """Scenes in one, over which the pictures of a step are spread evenly, each particle's together."""
        ...

    def boundaries(self, max_steps: int) -> frozenset[int]:
        """The steps below `max_steps` that are entered with parameters of other sizes, or reset ones."""
        ...

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Parameters and buffers of one state at step 0."""
        ...

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names of parameters by what an optimiser may treat apart."""
        ...

    def cost(self, final: bool) -> int:
        """What a pixel costs to render, in samples, for a drift or for the pictures of a result."""
        ...

    def render(self, params: Tensors, buffers: Tensors, spec: PictureSpec) -> Rendered:
        """The pictures of W states.

        Args:
            params, buffers: stacked, [W, ...].
            spec: which ones, B of each state.
        """
        ...

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """Buffers of W states as pictures of a result need them: nothing lags behind the parameters."""
        ...

    def gather(self, buffers: Tensors, told: Mapping[str, Tensor], step: int) -> Tensors:
        """Buffers of the state that entered a step after an update with what its drift told (`Watched`)."""
        ...

    def enter(
        self, params: Tensors, moments: Tensors, buffers: Tensors, step: int, seed: int
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Parameters, moments and buffers that enter a step, from what the optimiser left; draws depend on the seed
        and the step alone."""
        ...

    def elementwise(self, step: int) -> bool:
        """Whether `enter` leaves the parameters of a step as they are, and looks at none of them."""
        ...

    def density_and_color(self, params: Tensors, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [P], in 1 / length, and colour [P, 3] in [0, 1] of one state (W = 1) at points [P, 3]."""
        ...

    def splats(self, params: Tensors) -> Mapping[str, Tensor] | None:
        """The columns [N] of a file of N Gaussians, by name, for the parameters of one state; None: there are none."""
        ...

    def total_variation(self, params: Tensors) -> Tensor:
        """Mean squared difference [W] between neighbours of a grid."""
        ...


def own(scene: Scene, tensors: Tensors) -> Tensors:
    """Those of a state's parameters, or of stacked states', that are the scene's."""
    return {name: tensors[name] for names in scene.groups().values() for name in names}
