"""A window's draws reach the device in one copy, and what is made of them there needs no other."""

from __future__ import annotations

from pathlib import Path

import torch

from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.guidance.factory import make_guidance
from dreamprop.guidance.protocol import Pictures, join
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.methods.step_sample import draw_steps
from dreamprop.scenes import background, cameras
from dreamprop.scenes.config import MaterialConfig
from dreamprop.scenes.field import stack
from dreamprop.scenes.hash_grid import HashGrid
from dreamprop.scenes.volume_grid import VoxelGrid
from tests.copies import Copies
from tests.guidance import tiny

META = torch.device("meta")


def test_the_draws_of_a_window_are_copied_once_and_nothing_else(tmp_path: Path) -> None:
    config = GuidanceConfig(
        pretrained_model_name_or_path=str(tiny.save(tmp_path, latent=True)),
        guidance_scale=[0, 5.0, 9.0, 4],
        grad_clip=[0, 0.1, 0.2, 4],
    )
    guidance = make_guidance(config, PromptConfig(prompt="a red torus"), META)
    data, steps = DataConfig(batch_size=2, width=8, height=8), [0, 1, 2]
    with Copies() as copies:
        samples = draw_steps(data, SystemConfig(material=MaterialConfig(0)), guidance, 0, steps, META)
    assert copies.count == 1
    assert all(s.guidance.noise.device == s.shift.device == META for s in samples)
    fields = [HashGrid(levels=2), VoxelGrid(8)]
    params = [stack([{n: p.to(META) for n, p in f.init(torch.Generator())[0].items()}] * 3) for f in fields]
    points = torch.empty(3, 5, 3, device=META)
    for field, own in zip(fields, params, strict=True):
        field.query(own, points, normals=True)  # constants are brought to a device once
    with Copies() as copies:
        uniform, normal = torch.stack([s.uniform for s in samples]), torch.stack([s.normal for s in samples])
        view = cameras.place(uniform, normal, cameras.Ranges())
        cameras.rays(view, 8, 8)
        background.soft(torch.cat([s.background for s in samples]), 8)
        for field, own in zip(fields, params, strict=True):
            field.query(own, points, normals=True)
        images = guidance.resize(torch.empty(6, 3, 8, 8, device=META))
        draw = join([s.guidance for s in samples])
        of_pictures = [step for step in steps for _ in range(2)]
        pose = cameras.pose(view)
        asked = Pictures(images, view.elevation, view.azimuth, pose, draw, of_pictures, [2, 2, 2])
        z, grad = guidance.gradient(asked, {})
    assert copies.count == 0 and z.device == grad.device == META
