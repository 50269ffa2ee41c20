"""A drift on a GPU is that of the CPU to rounding, alone and in a window, in single and in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dreamprop.state import to
from tests.cuda import scene

ORDER = 1e-3
"""Relative: sums of float32 in the order of another batch; 2e-6 on a CPU, whose batches change less."""
DEVICE = 1e-2
"""Relative: the same on another device, where a sample on the border of an empty cell may fall on its other side."""
FLOAT16 = 0.05
"""Relative: float16 keeps 11 bits, and guidance takes the difference of two predictions times 10; 5e-3 on a CPU."""


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN would else round the factors of convolutions to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("kind", scene.KINDS)
def test_a_drift_is_that_of_the_cpu(model: Path, device: torch.device, kind: str) -> None:
    there, here = scene.make(model, torch.device("cpu"), kind), scene.make(model, device, kind)
    for state in scene.walk(there, 3):
        drift = here.drift(to(state, device))
        assert scene.off(there.drift(state), drift) < DEVICE
        moved = here.update(to(state, device), drift)
        assert {t.device.type for t in scene.tensors(moved).values()} == {device.type}


@pytest.mark.parametrize("kind", scene.KINDS)
def test_a_window_is_its_states_one_by_one(model: Path, device: torch.device, kind: str) -> None:
    process = scene.make(model, device, kind)
    states = scene.walk(process, 4)
    for state, together in zip(states, process.drift_window(states), strict=True):
        assert scene.off(process.drift(state), together) < ORDER


def test_the_first_state_is_that_of_the_cpu(model: Path, device: torch.device) -> None:
    there, here = scene.make(model, torch.device("cpu")).init(), scene.make(model, device).init()
    for name, tensor in scene.tensors(there).items():
        assert scene.tensors(here)[name].device.type == device.type
        assert torch.allclose(scene.tensors(here)[name].cpu(), tensor, rtol=1e-4, atol=1e-6), name


def test_half_precision_guidance_is_near_single(model: Path, device: torch.device) -> None:
    single, half = (scene.make(model, device, half=half) for half in (False, True))
    assert half.guidance.model.unet.dtype == half.guidance.prompt.positive.dtype == torch.float16
    for state in scene.walk(single, 3):
        drift = half.drift(state)
        assert all(g.dtype == torch.float32 for g in drift.grads.values())
        assert scene.off(single.drift(state), drift) < FLOAT16
