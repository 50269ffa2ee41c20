"""A radiance field on a grid of voxels: raw density and colour at vertices, trilinear in between.

Its occupancy is read off the grid itself, so it needs no buffer: there is nothing to update and nothing that could be
stale at a guessed state.

Legend: W states, M points, R vertices along a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.density import Density
from dreamprop.scenes.field import Sampled, Tensors
from dreamprop.utils.grid_encoding import Part, cell, dense_rows, gather, weights

DENSITY, COLOR = "geometry.density", "geometry.color"


@dataclass(frozen=True)
class VoxelGrid:
    """Vertices at the corners of the cells of [-radius, radius]^3; the blob's bias is interpolated like the rest."""

    resolution: int = 32
    """R: vertices along a side at step 0."""
    radius: float = 1.0
    density: Density = field(default_factory=Density)
    noise: float = 0.01
    """Standard deviation of the raw colours at the start."""

    @property
    def grows(self) -> bool:
        """Whether ``grow`` changes the resolution, as it does here."""
        return True

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Raw density [R, R, R] zero (the bias makes the blob), raw colour [R, R, R, 3] near grey."""
        r = self.resolution
        color = torch.randn(r, r, r, 3, generator=generator) * self.noise
        return {DENSITY: torch.zeros(r, r, r), COLOR: color}, {}

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The parameter groups: density and colour, each by itself."""
        return {DENSITY: (DENSITY,), COLOR: (COLOR,)}

    def query(self, params: Tensors, points: Tensor, normals: bool = False) -> Sampled:
        """Density, colour and, where asked for, normals: finite differences on the grid, interpolated."""
        raw, color = params[DENSITY], params[COLOR]  # [W, R, R, R], [W, R, R, R, 3]
        count, side = raw.shape[:2]
        biased = raw + _bias(self.density, self.radius, side, raw.device)
        columns = [biased[..., None], color]
        if normals:
            columns.append(self.slope(biased))
        table = torch.cat(columns, -1).flatten(0, 3)  # [W R^3, 4 or 7]
        position = (points.reshape(-1, 3).t() / self.radius + 1) * ((side - 1) / 2)  # [3, W M]
        owner = torch.arange(count, device=raw.device).repeat_interleave(points.shape[1]) * side**3  # [W M]

        def locate(part: slice) -> Part:
            low, rest = cell(position[:, part], side)
            rows = dense_rows(low.unbind()[::-1], (1, side, side**2))
            return rows + owner[part, None], weights(rest.unbind()[::-1])

        found = gather(table, locate, len(owner)).view(-1, *points.shape[:2])  # [4 or 7, W, M]
        density, albedo, *rest = found.split([1, 3, 3] if normals else [1, 3])
        normal = F.normalize(-rest[0].movedim(0, -1), dim=-1) if normals else None
        return Sampled(self.density.of(density[0]), albedo.sigmoid().movedim(0, -1), normal)

    def slope(self, raw: Tensor) -> Tensor:
        """Gradient [W, R, R, R, 3] per unit of length of a raw grid [W, R, R, R], by differences."""
        step = 2 * self.radius / (raw.shape[-1] - 1)
        return torch.stack(torch.gradient(raw, spacing=step, dim=(1, 2, 3)), -1)

    def occupancy_mask(self, params: Tensors, buffers: Tensors, density: float) -> Tensor | None:
        """The cells [W, R-1, R-1, R-1] with a corner above the density or, if that is less, above the mean of all."""
        raw = params[DENSITY].detach()
        biased = raw + _bias(self.density, self.radius, raw.shape[-1], raw.device)
        found = self.density.of(biased)
        full = found > found.mean((1, 2, 3), keepdim=True).clamp(max=density)
        full = full[:, 1:] | full[:, :-1]
        full = full[:, :, 1:] | full[:, :, :-1]
        return full[..., 1:] | full[..., :-1]

    def vertices(self, side: int, device: torch.device) -> Tensor:
        """Places [R, R, R, 3] of the vertices."""
        return _vertices(self.radius, side, device)

    def update_occupancy(
        self, params: Tensors, buffers: Tensors, step: int, generator: torch.Generator
    ) -> Tensors:
        """The buffers as they are: occupancy is read off the grid itself, and nothing is kept."""
        return buffers

    def updates_occupancy(self, step: int) -> bool:
        """Whether the way into a step refreshes the occupancy; here no step does."""
        return False

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """The buffers as they are: there are none."""
        return buffers

    def grow(self, params: Tensors, moments: Tensors, resolution: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments of one state on a grid of other vertices, both interpolated."""
        return grow_params(params, resolution), grow_moments(moments, resolution)

    def total_variation(self, params: Tensors) -> Tensor:
        """Mean squared difference [W] between neighbouring vertices, of raw density and colour."""
        total = torch.zeros((), device=params[DENSITY].device)
        for grid in (params[DENSITY][..., None], params[COLOR]):
            for axis in (1, 2, 3):
                total = total + grid.diff(dim=axis).square().flatten(1).mean(1)
        return total


def _vertices(radius: float, side: int, device: torch.device) -> Tensor:
    line = torch.linspace(-radius, radius, side, device=device)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)


@lru_cache(maxsize=8)
def _bias(density: Density, radius: float, side: int, device: torch.device) -> Tensor:
    """The bias [R, R, R] at the vertices; never written to."""
    return density.offset(_vertices(radius, side, device))


def grow_params(params: Tensors, resolution: int) -> Tensors:
    """Grids of parameters at another resolution, trilinear; vertices at the faces stay at the faces."""
    return {name: _interpolated(grid, resolution) for name, grid in params.items()}


def grow_moments(moments: Tensors, resolution: int) -> Tensors:
    """Their moments, by the same weights; all of them >= 0, so second moments stay >= 0. Scalars are kept."""
    return {
        name: _interpolated(grid, resolution) if grid.ndim >= 3 else grid for name, grid in moments.items()
    }


def _interpolated(grid: Tensor, resolution: int) -> Tensor:
    channels = grid.flatten(3).movedim(-1, 0) if grid.ndim > 3 else grid[None]  # [F, R, R, R]
    larger = F.interpolate(channels[None], (resolution,) * 3, mode="trilinear", align_corners=True)[0]
    larger = larger.movedim(0, -1) if grid.ndim > 3 else larger[0]
    return larger.contiguous()
