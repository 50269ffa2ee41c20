"""What a state shows: pictures from around it. Nothing is drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamprop.methods.config import DataConfig
from dreamprop.scenes import cameras
from dreamprop.scenes.field import stack
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.scene import Scene, own
from dreamprop.state import State
from dreamprop.utils.cpu_threads import over_cores, split_over_cores

CHUNK = 1 << 22
"""Samples rendered at a time for pictures, on a CPU by each core."""


def around(
    scene: Scene,
    state: State,
    data: DataConfig,
    *,
    num_views: int,
    width: int,
    height: int,
    elevation: float,
) -> list[Rendered]:
    """Render a state from even azimuths, the first from the front, as many pictures at a time as fit in memory; on a
    CPU, some on each of its cores.

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
    buffers = scene.final_buffers(params, stack([state.buffers]))

    together = max(1, CHUNK // (width * height * scene.cost(final=True)))

    @torch.no_grad()
    def render(share: Sequence[int]) -> list[Rendered]:
        return [
            picture(part)
            for part in (torch.tensor(share, device=device) * (360.0 / num_views)).split(together)
        ]

    def picture(azimuth: Tensor) -> Rendered:
        view = cameras.orbit(
            torch.full_like(azimuth, elevation),
            azimuth,
            torch.full_like(azimuth, sum(data.camera_distance_range) / 2),
            torch.full_like(azimuth, sum(data.fovy_range) / 2),
        )
        shift = torch.full((1, len(azimuth) * height * width), 0.5, device=device)
        return scene.render(params, buffers, PictureSpec(view, height, width, shift, final=True))

    shares = split_over_cores(range(num_views), device)
    return [seen for share in over_cores(render, shares) for seen in share]
