"""What a state shows and holds: pictures from around it, and its density and colour at points. Nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dreamprop.methods.config import DataConfig
from dreamprop.scenes import cameras
from dreamprop.scenes.config import RendererConfig
from dreamprop.scenes.field import Field, stack
from dreamprop.scenes.volume_rendering import Rendered, render
from dreamprop.state import State

CHUNK = 1 << 22
"""Samples rendered at a time for pictures."""
POINTS = 1 << 18
"""Points that a field is asked for at a time."""


@torch.no_grad()
def around(
    field: Field,
    state: State,
    data: DataConfig,
    renderer: RendererConfig,
    *,
    num_views: int,
    width: int,
    height: int,
    elevation: float,
) -> Iterator[Rendered]:
    """Render a state from even azimuths, the first from the front, as many pictures at a time as fit in memory.

    Args:
        field: what the parameters mean.
        state: what to show.
        data: cameras stand in the middle of its ranges of distances and fields of view.
        renderer: samples a ray, and which cells are skipped.
        num_views: how many pictures.
        width, height: in pixels.
        elevation: of the cameras in degrees.
    """
    device = next(iter(state.params.values())).device
    samples = renderer.eval_num_samples_per_ray
    params, buffers = stack([state.params]), stack([state.buffers])
    azimuth = torch.arange(num_views, device=device) * (360.0 / num_views)
    for part in azimuth.split(max(1, CHUNK // (width * height * samples))):
        view = cameras.orbit(
            torch.full_like(part, elevation),
            part,
            torch.full_like(part, sum(data.camera_distance_range) / 2),
            torch.full_like(part, sum(data.fovy_range) / 2),
        )
        shift = torch.full((1, len(part) * height * width), 0.5, device=device)
        yield render(
            field,
            params,
            buffers,
            view,
            height,
            width,
            shift,
            samples=samples,
            prune_alpha=renderer.prune_alpha,
        )


@torch.no_grad()
def density_and_color(field: Field, state: State, points: Tensor) -> tuple[Tensor, Tensor]:
    """Density [P], in 1 / length, and colour [P, 3] in [0, 1] at points [P, 3]; nothing is outside the ball."""
    params = stack([state.params])
    device = next(iter(state.params.values())).device
    density, color = [], []
    for part in points.to(device).split(POINTS):
        found = field.query(params, part[None])
        density.append(found.density[0] * (part.square().sum(-1) <= field.radius**2))
        color.append(found.color[0])
    return torch.cat(density), torch.cat(color)
