"""Distillation by what it shows: the accelerated run ends where the sequential one does, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamprop.guidance.protocol import Draw, NothingToLearn, Pictures
from dreamprop.methods import distillation, dreamfusion
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.scenes import cameras
from dreamprop.scenes.config import BackgroundConfig, GeometryConfig, RendererConfig
from dreamprop.scenes.field import stack
from dreamprop.scenes.gaussians.config import GaussiansConfig
from dreamprop.scenes.gaussians.names import XYZ
from dreamprop.scenes.gaussians.scene import Gaussians
from dreamprop.scenes.volume_rendering import prune_density
from dreamprop.state import State
from tests.ball import Ball
from tests.results import Shown, judge

STEPS, SIDE = 64, 24
DISTANCE, FOVY = 2.4, 47.0
GAUSSIANS = GaussiansConfig(
    num_points=100, densify_from=16, densification_interval=16, densify_until=48, max_points=300
)
NOISE, STRENGTH = 0.5, 10.0
"""Of what is added to the ball's picture, and of its pull beside the other losses."""


class Pull(NothingToLearn):
    """Score distillation's interface; what it wants is a ball, with noise on it."""

    def __init__(self) -> None:
        self.ball = Ball()

    def draw(self, count: int, step: int, generator: torch.Generator) -> Draw:
        noise = torch.randn((count, 3, SIDE, SIDE), generator=generator)
        return Draw(torch.zeros(count, dtype=torch.int64), noise, None, (0,) * count)

    def resize(self, pictures: Tensor) -> Tensor:
        return pictures

    def target(self, elevation: Tensor, azimuth: Tensor, side: int) -> Tensor:
        """The ball's pictures [N, 3, side, side] from around it."""
        distance, fovy = torch.full_like(elevation, DISTANCE), torch.full_like(elevation, FOVY)
        origins, towards = cameras.rays(cameras.orbit(elevation, azimuth, distance, fovy), side, side)
        seen = self.ball(origins[:, None].expand_as(towards), towards)
        return seen.view(-1, side, side, 3).permute(0, 3, 1, 2)

    def gradient(self, pictures: Pictures, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        wanted = self.target(pictures.elevation, pictures.azimuth, SIDE) + NOISE * pictures.draw.noise
        return pictures.images, STRENGTH * (pictures.images - wanted).detach()


def show(process: dreamfusion.DreamFusion, state: State) -> Shown:
    views = process.render_views(state, num_views=6, width=SIDE, height=SIDE)
    azimuth = torch.arange(6) * 60.0
    wanted = process.guidance.target(torch.full_like(azimuth, 15.0), azimuth, SIDE)  # type: ignore[attr-defined]
    if isinstance(process.scene, Gaussians):
        return Shown(views, float((views - wanted).square().mean()), {"points": len(state.params[XYZ])})
    renderer = process.system.renderer
    density = prune_density(renderer.prune_alpha, process.bound)
    occupied = process.scene.field.occupancy_mask(stack([state.params]), stack([state.buffers]), density)
    assert occupied is not None and not occupied.all()
    return Shown(views, float((views - wanted).square().mean()), {"occupied": int(occupied.sum())})


@pytest.mark.parametrize("kind", ["volume-grid", "implicit-volume", "gaussian-splatting"])
def test_a_method_by_its_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "make_guidance", lambda *_: Pull())
    data = DataConfig(
        batch_size=1,
        width=SIDE,
        height=SIDE,
        camera_distance_range=[DISTANCE, DISTANCE],
        fovy_range=[FOVY, FOVY],
    )
    system: dict[str, Any] = {
        "geometry": GeometryConfig(resolution=20, density_blob_scale=10.0, gaussians=GAUSSIANS),
        "background_type": "solid-color-background",
        "background": BackgroundConfig(color=[0.5, 0.5, 0.5]),
        "renderer": RendererConfig(num_samples_per_ray=16, eval_num_samples_per_ray=48),
    }

    def make(seed: int) -> dreamfusion.DreamFusion:
        return dreamfusion.DreamFusion(
            data, SystemConfig(geometry_type=kind, **system), seed=seed, max_steps=STEPS
        )

    judged = judge(make, show, STEPS)
    print(judged.line(kind))
    judged.check()
