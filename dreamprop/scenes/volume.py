"""A radiance field as a scene: volume rendering, and a field that grows and keeps note of where it is empty.

Legend: W states, P points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.rng import generator
from dreamprop.scenes.config import GeometryConfig, RendererConfig
from dreamprop.scenes.field import Field, Tensors
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.volume_rendering import render

POINTS = 1 << 18
"""Points that a field is asked for at a time."""


@dataclass(frozen=True)
class Volume:
    """A radiance field with what its rendering and its growth are set to."""

    field: Field
    geometry: GeometryConfig
    renderer: RendererConfig
    unread: Collection[str] = ()
    """None: occupancy says which samples a drift skips."""
    known_sizes: bool = True
    """Resolutions stand in the config."""
    num_particles: int = 1
    """It is one."""

    @property
    def radius(self) -> float:
        """Radius of the ball that the field fills, in units of length."""
        return self.field.radius

    def boundaries(self, max_steps: int) -> frozenset[int]:
        """The steps at which the field grows."""
        return frozenset(t for t in self.geometry.resolution_milestones if t < max_steps and self._grows(t))

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """The field's own start, a grey blob."""
        return self.field.init(generator)

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The field's parameter groups."""
        return self.field.groups()

    def cost(self, final: bool) -> int:
        """Samples of a ray."""
        return self.renderer.eval_num_samples_per_ray if final else self.renderer.num_samples_per_ray

    def render(self, params: Tensors, buffers: Tensors, spec: PictureSpec) -> Rendered:
        """The pictures of W states by volume rendering."""
        return render(
            self.field,
            params,
            buffers,
            spec,
            samples=self.cost(spec.final),
            prune_alpha=self.renderer.prune_alpha,
        )

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """The field's own, where samples are skipped at all."""
        return self.field.final_buffers(params, buffers) if self.renderer.prune_alpha > 0 else buffers

    def gather(self, buffers: Tensors, told: Mapping[str, Tensor], step: int) -> Tensors:
        """The buffers as they are: a field's drifts tell nothing but gradients."""
        return buffers

    def enter(
        self, params: Tensors, moments: Tensors, buffers: Tensors, step: int, seed: int
    ) -> tuple[Tensors, Tensors, Tensors]:
        """A larger grid where it grows, and a fresher occupancy where that is due."""
        if self._grows(step):
            params, moments = self.field.grow(params, moments, self.geometry.side(step))
        buffers = self.field.update_occupancy(params, buffers, step, generator(seed, step, "occupancy"))
        return params, moments, buffers

    def elementwise(self, step: int) -> bool:
        """Whether there is neither growth nor fresh occupancy."""
        return not self._grows(step) and not self.field.updates_occupancy(step)

    @torch.no_grad()
    def density_and_color(self, params: Tensors, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [P], in 1 / length, and colour [P, 3] in [0, 1]; nothing is outside the ball."""
        density, color = [], []
        for part in points.split(POINTS):
            found = self.field.query(params, part[None])
            density.append(found.density[0] * (part.square().sum(-1) <= self.field.radius**2))
            color.append(found.color[0])
        return torch.cat(density), torch.cat(color)

    def splats(self, params: Tensors) -> None:
        """None: a field holds no Gaussians."""

    def total_variation(self, params: Tensors) -> Tensor:
        """Mean squared difference [W] between neighbours of the field's grid."""
        return self.field.total_variation(params)

    def _grows(self, step: int) -> bool:
        """Whether a step is entered with a grid of another size."""
        side = self.geometry.side
        milestone = self.field.grows and step in self.geometry.resolution_milestones
        return milestone and side(step) != side(step - 1)
