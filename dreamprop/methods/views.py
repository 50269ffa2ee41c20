"""What a state shows: pictures from around it. Nothing is drawn at random."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dreamprop.methods.config import DataConfig
from dreamprop.scenes import cameras
from dreamprop.scenes.field import stack
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.scene import Scene, own
from dreamprop.state import State

CHUNK = 1 << 22
"""Samples rendered at a time for pictures."""


@torch.no_grad()
def around(
    scene: Scene,
    state: State,
    data: DataConfig,
    *,
    num_views: int,
    width: int,
    height: int,
    elevation: float,
) -> Iterator[Rendered]:
    """Render a state from even azimuths, the first from the front, as many pictures at a time as fit in memory.

    Args:
        scene: what the parameters mean.
        state: what to show.
        data: cameras stand in the middle of its ranges of distances and fields of view.
        num_views: how many pictures.
        width, height: in pixels.
        elevation: of the cameras in degrees.
    """
    device = next(iter(state.params.values())).device
    params = stack([own(scene, state.params)])
    buffers = scene.settled(params, stack([state.buffers]))
    azimuth = torch.arange(num_views, device=device) * (360.0 / num_views)
    for part in azimuth.split(max(1, CHUNK // (width * height * scene.cost(final=True)))):
        view = cameras.orbit(
            torch.full_like(part, elevation),
            part,
            torch.full_like(part, sum(data.camera_distance_range) / 2),
            torch.full_like(part, sum(data.fovy_range) / 2),
        )
        shift = torch.full((1, len(part) * height * width), 0.5, device=device)
        yield scene.render(params, buffers, PictureSpec(view, height, width, shift, final=True))
