"""Several scenes of one kind in one state: the particles of variational score distillation (arXiv:2305.16213).

Their parameters and buffers are stacked [n, ...] by name; one particle alone is stored as it is. A renderer is given
the particles of W states as W n states.

Legend: W states, n particles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.optim.moments import MomentKey
from dreamprop.scenes.field import Field, Tensors, stack


@dataclass(frozen=True)
class Particles:
    """n fields that share one description; what belongs to others in a state is handed through."""

    field: Field
    count: int = 1
    """n"""

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Parameters and buffers of one state at step 0, the particles drawn one after the other."""
        made = [self.field.init(generator) for _ in range(self.count)]
        if self.count == 1:
            return made[0]
        return stack([params for params, _ in made]), stack([buffers for _, buffers in made])

    def scenes(self, tensors: Tensors) -> Tensors:
        """Stacked tensors [W, n, ...] of states as those of W n scenes [W n, ...]."""
        return tensors if self.count == 1 else {name: t.flatten(0, 1) for name, t in tensors.items()}

    def own(self, params: Tensors) -> Tensors:
        """Those of a state's parameters, or of stacked states', that are the field's."""
        return {name: params[name] for names in self.field.groups().values() for name in names}

    def particle(self, tensors: Tensors, which: int) -> Tensors:
        """Parameters or buffers of one of the particles."""
        return tensors if self.count == 1 else {name: t[which] for name, t in tensors.items()}

    def grow(self, params: Tensors, moments: Tensors, resolution: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments of one state with every particle at another resolution."""
        mine = self.own(params)
        belong = {key: m for key, m in moments.items() if MomentKey.parse(key).parameter in mine}

        def grow(which: int) -> tuple[Tensors, Tensors]:
            return self.field.grow(self.particle(mine, which), self.particle(belong, which), resolution)

        grown = [grow(which) for which in range(self.count)]
        new_params, new_moments = (self._together([g[side] for g in grown]) for side in (0, 1))
        return {**params, **new_params}, {**moments, **new_moments}

    def update_occupancy(
        self, params: Tensors, buffers: Tensors, step: int, generator: torch.Generator
    ) -> Tensors:
        """Buffers of one state that enters a step, the particles' draws one after the other."""
        if not self.field.updates_occupancy(step):
            return buffers
        mine = self.own(params)

        def update(which: int) -> Tensors:
            return self.field.update_occupancy(
                self.particle(mine, which), self.particle(buffers, which), step, generator
            )

        return self._together([update(which) for which in range(self.count)])

    def mean(self, values: Tensor) -> Tensor:
        """Means [W] over the particles of values [W n]."""
        return values if self.count == 1 else values.view(-1, self.count).mean(1)

    def _together(self, parts: list[Tensors]) -> Tensors:
        return parts[0] if self.count == 1 else stack(parts)
