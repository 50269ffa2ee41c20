"""Samplers on a GPU: on its own pictures where one step follows another, and near the CPU's in windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop.sampling import paradigms, piadm, randomized_midpoint, srds
from tests.sampling.pipes import pipeline, scheduler, seeded

PROMPTS = ["a red torus", "a cube"]
DEVICE = 0.05
"""Root mean square of the latents: a guess may be accepted on one device and not on the other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def told(method: Any) -> dict[str, Any]:
    steps = {} if method is piadm else {"num_inference_steps": 9}
    return {"generator": seeded(), "guidance_scale": 3.0, "output_type": "latent"} | steps


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_a_window_of_one_is_the_pipelines_own_sampler(folder: Path, device: torch.device, name: str) -> None:
    pipe = pipeline(folder).to(device)
    pipe.scheduler = scheduler(name)
    expected = pipe(PROMPTS, **told(paradigms)).images
    found = paradigms(pipe, PROMPTS, window=1, **told(paradigms)).images
    assert torch.equal(found, expected) and found.device.type == device.type


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (paradigms, "DDIMScheduler"),
        (paradigms, "DDPMScheduler"),
        (srds, "DDIMScheduler"),
        (piadm, "DDIMScheduler"),
        (randomized_midpoint, "DDIMScheduler"),
    ],
)
def test_pictures_are_those_of_the_cpu(folder: Path, device: torch.device, method: Any, name: str) -> None:
    here, there = pipeline(folder).to(device), pipeline(folder)
    here.scheduler = there.scheduler = scheduler(name)
    found, expected = (
        method(pipe, PROMPTS, **told(method) | ({"window": 4} if method is paradigms else {})).images.cpu()
        for pipe in (here, there)
    )
    assert (found - expected).square().mean().sqrt() < DEVICE
