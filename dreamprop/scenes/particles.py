"""Several scenes of one kind as one: the particles of variational score distillation (arXiv:2305.16213).

Their parameters and buffers are stacked [n, ...] by name, and the pictures of a step are spread evenly over them. What
is shown and exported as a result is the first.

Legend: W states, n particles, P points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamprop.scenes.field import Tensors, stack
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.scene import Scene


@dataclass(frozen=True)
class Particles:
    """n scenes that share one description, whose sizes follow from the step alone."""

    scene: Scene
    """Of one of them."""
    num_particles: int
    """n, at least 2"""

    @property
    def radius(self) -> float:
        """Radius of the ball that each scene fills, in units of length."""
        return self.scene.radius

    @property
    def unread(self) -> Collection[str]:
        """Names of buffers that no drift reads."""
        return self.scene.unread

    @property
    def known_sizes(self) -> bool:
        """Whether the sizes behind a boundary follow from the step alone."""
        return self.scene.known_sizes

    def boundaries(self, max_steps: int) -> frozenset[int]:
        """The steps at which all of them change their sizes."""
        return self.scene.boundaries(max_steps)

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Parameters and buffers at step 0, the particles drawn one after the other."""
        made = [self.scene.init(generator) for _ in range(self.num_particles)]
        return stack([params for params, _ in made]), stack([buffers for _, buffers in made])

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The parameter groups of one scene: those of all stand together."""
        return self.scene.groups()

    def cost(self, final: bool) -> int:
        """What a pixel costs to render, in samples."""
        return self.scene.cost(final)

    def render(self, params: Tensors, buffers: Tensors, spec: PictureSpec) -> Rendered:
        """The pictures of W states: each particle's share, as a state of its own; as a result, those of the first."""
        if spec.final:
            return self.scene.render(self._first(params), self._first(buffers), spec)
        n, shading = self.num_particles, spec.shading
        if shading is not None:
            shading = replace(
                shading,
                ambient=shading.ambient.repeat_interleave(n, 0),
                diffuse=shading.diffuse.repeat_interleave(n, 0),
                textureless=shading.textureless.repeat_interleave(n, 0),
            )
        shares = replace(spec, shift=spec.shift.view(len(spec.shift) * n, -1), shading=shading)
        rendered = self.scene.render(_apart(params), _apart(buffers), shares)
        if rendered.orientation is None:
            return rendered
        return replace(rendered, orientation=self._mean(rendered.orientation))

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """Those of the first, which is all that is shown."""
        found = self.scene.final_buffers(self._first(params), self._first(buffers))
        return {name: t[:, None] for name, t in found.items()}

    def gather(self, buffers: Tensors, told: Mapping[str, Tensor], step: int) -> Tensors:
        """The buffers as they are: the drift of a scene of known sizes tells nothing but gradients."""
        return buffers

    def enter(
        self, params: Tensors, moments: Tensors, buffers: Tensors, step: int, seed: int
    ) -> tuple[Tensors, Tensors, Tensors]:
        """What each particle enters a step with; the draws of the step are the same for all."""
        if self.scene.elementwise(step):
            return params, moments, buffers
        entered = []
        for i in range(self.num_particles):
            mine = [{name: t[i] for name, t in part.items()} for part in (params, moments, buffers)]
            entered.append(self.scene.enter(mine[0], mine[1], mine[2], step, seed))
        new_params, new_moments, new_buffers = (stack([one[part] for one in entered]) for part in range(3))
        return new_params, new_moments, new_buffers

    def elementwise(self, step: int) -> bool:
        """Whether nothing becomes of the scenes on the way into a step."""
        return self.scene.elementwise(step)

    def density_and_color(self, params: Tensors, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [P], in 1 / length, and colour [P, 3] in [0, 1] of the first particle of one state (W = 1)."""
        return self.scene.density_and_color(self._first(params), points)

    def splats(self, params: Tensors) -> Mapping[str, Tensor] | None:
        """The columns of a file of Gaussians of the first particle; None where there are none."""
        return self.scene.splats({name: t[0] for name, t in params.items()})

    def total_variation(self, params: Tensors) -> Tensor:
        """Mean squared difference [W] between neighbours of a grid, a mean over the particles."""
        return self._mean(self.scene.total_variation(_apart(params)))

    def _first(self, tensors: Tensors) -> Tensors:
        """Those [W, ...] of the first particle of stacked states [W, n, ...]."""
        return {name: t[:, 0] for name, t in tensors.items()}

    def _mean(self, values: Tensor) -> Tensor:
        """Means [W] over the particles of values [W n]."""
        return values.view(-1, self.num_particles).mean(1)


def _apart(tensors: Tensors) -> Tensors:
    """The particles of W states [W, n, ...] as W n states."""
    return {name: t.flatten(0, 1) for name, t in tensors.items()}
