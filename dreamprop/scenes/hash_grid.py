"""A radiance field behind a multiresolution hash encoding (Instant-NGP, arXiv:2201.05989) and a small network.

Plain torch, all levels and all states in one lookup; tiny-cuda-nn is not used. Asking the field everywhere is
expensive, so its occupancy is remembered in a buffer: running maxima of the density in cells, refreshed every few
steps from the parameters that enter them.

Legend: W states, M points, L levels, T rows of all levels, F features of a row, G cells along a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.density import Density
from dreamprop.scenes.field import Sampled, Tensors
from dreamprop.utils.grid_encoding import PRIMES, Part, cell, dense_rows, gather, hashed_rows, weights
from dreamprop.utils.transfer import to_device

FINAL_CELLS = 64
"""Occupancy cells along a side for pictures of a result: many samples are spared for one look at the field."""
TABLE, LAYER, OCCUPANCY = "geometry.encoding", "geometry.network.{}", "geometry.occupancy"


@dataclass(frozen=True)
class HashGrid:
    """Levels of grids whose rows are shared where a level has more vertices than rows."""

    levels: int = 6
    features: int = 2
    log2_rows: int = 15
    """Rows of a level at most, as a power of two."""
    coarsest: int = 8
    """Vertices along a side of the first level."""
    growth: float = 1.5
    """How much finer each level is."""
    neurons: int = 32
    hidden: int = 1
    radius: float = 1.0
    density: Density = field(default_factory=Density)
    difference: float = 0.02
    """Step of the difference quotients for normals, as a share of the radius."""
    cells: int = 24
    """G: occupancy cells along a side."""
    every: int = 16
    """Steps between two refreshes of the occupancy."""
    fade: float = 0.3
    """What is left of a remembered density at a refresh; short runs must be able to forget the blob they begin with."""

    @property
    def grows(self) -> bool:
        """Whether ``grow`` changes the resolution; a hash grid has one size."""
        return False

    @property
    def sides(self) -> list[int]:
        """Vertices along a side, by level."""
        return [int(self.coarsest * self.growth**level) for level in range(self.levels)]

    @property
    def rows(self) -> list[int]:
        """Rows of the table that each level has, [L]."""
        return [min(side**3, 1 << self.log2_rows) for side in self.sides]

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Rows uniform in +-1e-4 as in the paper, layers uniform as `torch.nn.Linear` has them, without bias."""
        table = (torch.rand(sum(self.rows), self.features, generator=generator) * 2 - 1) * 1e-4
        sizes = [self.levels * self.features, *[self.neurons] * self.hidden, 4]
        params = {TABLE: table}
        for number, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            layer = (torch.rand(fan_in, fan_out, generator=generator) * 2 - 1) * fan_in**-0.5
            params[LAYER.format(number)] = layer
        return params, {OCCUPANCY: self._peak(params, generator)}

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The encoding and the network."""
        return {TABLE: (TABLE,), "geometry.network": tuple(LAYER.format(i) for i in range(self.hidden + 1))}

    def query(self, params: Tensors, points: Tensor, normals: bool = False) -> Sampled:
        """Density, colour and, where asked for, normals by forward differences."""
        if not normals:
            density, color = self._query(params, points)
            return Sampled(density, color, None)
        step = self.difference * self.radius
        around = (
            torch.eye(4, 3, device=points.device, dtype=points.dtype).roll(1, 0) * step
        )  # [4, 3], the first 0
        every = (points[:, :, None] + around).flatten(1, 2)  # [W, 4 M, 3]
        density, color = self._query(params, every)
        at = density.view(*points.shape[:2], 4)
        normal = F.normalize(at[..., :1] - at[..., 1:], dim=-1)
        return Sampled(at[..., 0], color.reshape(*points.shape[:2], 4, 3)[:, :, 0], normal)

    def encode(self, table: Tensor, points: Tensor) -> Tensor:
        """Features [W, M, L F] of tables [W, T, F] at points [W, M, 3]."""
        count, many = points.shape[:2]
        position = points.reshape(-1, 3).t() / (2 * self.radius) + 0.5  # [3, W M] in [0, 1]
        owner = torch.arange(count, device=points.device).repeat_interleave(many)  # [W M]
        # split, not sliced: the backward pass then puts the levels' gradients together once
        tables = table.split(self.rows, dim=1)
        levels = [
            self._level(level.flatten(0, 1), position, owner * rows, side, rows)
            for level, side, rows in zip(tables, self.sides, self.rows, strict=True)
        ]
        return torch.cat(levels).view(-1, count, many).movedim(0, -1)

    def _level(self, table: Tensor, position: Tensor, first: Tensor, side: int, rows: int) -> Tensor:
        """Features [F, W M] of one level, whose W tables of `rows` rows stand below each other."""

        def locate(part: slice) -> Part:
            low, rest = cell(position[:, part] * (side - 1), side)
            if side**3 <= rows:
                place = dense_rows(low.unbind()[::-1], (1, side, side**2))
            else:
                place = hashed_rows(low.unbind()[::-1], PRIMES[2::-1]) % rows
            return place + first[part, None], weights(rest.unbind()[::-1])

        return gather(table, locate, position.shape[1])

    def _query(self, params: Tensors, points: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encode(params[TABLE], points)
        for number in range(self.hidden):
            x = torch.bmm(x, params[LAYER.format(number)]).relu()
        raw = torch.bmm(x, params[LAYER.format(self.hidden)])  # [W, M, 4]
        density, albedo = raw.split([1, 3], dim=-1)
        biased = density[..., 0] + self.density.offset(points)
        return self.density.of(biased), albedo.sigmoid()

    def occupancy_mask(self, params: Tensors, buffers: Tensors, density: float) -> Tensor | None:
        """The cells [W, G, G, G] remembered above the density or, if that is less, the mean, and their neighbours."""
        found = buffers[OCCUPANCY]
        full = found > found.mean((1, 2, 3), keepdim=True).clamp(max=density)
        return F.max_pool3d(full.float(), 3, stride=1, padding=1) > 0

    def update_occupancy(
        self, params: Tensors, buffers: Tensors, step: int, generator: torch.Generator
    ) -> Tensors:
        """Every few steps, the larger of the faded memory and the density at a random point of each cell."""
        if not self.updates_occupancy(step):
            return buffers
        now = self._peak(params, generator)
        return {**buffers, OCCUPANCY: torch.maximum(buffers[OCCUPANCY] * self.fade, now)}

    def updates_occupancy(self, step: int) -> bool:
        """Whether the way into a step refreshes the occupancy: at every multiple of `every`."""
        return step % self.every == 0

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """The densities in the middle of smaller cells, as they are and not as they are remembered."""
        return {**buffers, OCCUPANCY: self._survey(params, FINAL_CELLS, torch.tensor(0.5))}

    def _peak(self, params: Tensors, generator: torch.Generator) -> Tensor:
        inside = torch.rand(self.cells**3, 3, generator=generator)
        return self._survey({name: p[None] for name, p in params.items()}, self.cells, inside)[0]

    @torch.no_grad()
    def _survey(self, params: Tensors, cells: int, inside: Tensor) -> Tensor:
        """The density [W, G, G, G] at a point of each of G^3 cells; `inside`, in [0, 1), says where in the cell."""
        line = torch.arange(cells)
        low = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
        points = to_device(((low + inside) * (2 / cells) - 1) * self.radius, params[TABLE].device)
        found, _ = self._query(params, points.expand(len(params[TABLE]), -1, -1))
        return found.view(-1, *(cells,) * 3)

    def grow(self, params: Tensors, moments: Tensors, resolution: int) -> tuple[Tensors, Tensors]:
        """Whether ``grow`` changes the resolution; a hash grid has one size."""
        return params, moments

    def total_variation(self, params: Tensors) -> Tensor:
        """There are no neighbours to compare: 0 for each state."""
        return params[TABLE].new_zeros(len(params[TABLE]))
