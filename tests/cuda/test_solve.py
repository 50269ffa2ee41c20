"""Windows on a GPU against the sequential run there: exact where that is promised, the same picture elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.solver.window import Window
from dreamprop.state import equal, to
from tests.cuda import scene
from tests.results import psnr

STEPS = 10


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("kind", scene.KINDS)
def test_tolerance_0_is_the_sequential_run(model: Path, device: torch.device, kind: str) -> None:
    process = scene.make(model, device, kind)
    sequential = dp.solve_sequential(process, STEPS)
    assert equal(dp.solve_sequential(process, STEPS).state, sequential.state), "the run repeats itself"
    assert equal(dp.solve(process, STEPS, 4, tolerance=0).state, sequential.state)


def test_a_window_shows_what_the_sequential_run_shows(model: Path, device: torch.device) -> None:
    process = scene.make(model, device)
    sequential = dp.solve_sequential(process, STEPS)
    solution = dp.solve(process, STEPS, 4, tolerance=0.5)
    assert solution.stats.num_rounds < STEPS
    views = [
        process.render_views(s, 4, 16, 16).cpu() for s in (sequential.state, solution.state, process.init())
    ]
    assert psnr(views[1], views[0]) > psnr(views[2], views[0]) + 10, "10 dB nearer than the run has moved"


@pytest.mark.usefixtures("deterministic")
def test_a_run_goes_on_from_disk_bit_for_bit(model: Path, device: torch.device, tmp_path: Path) -> None:
    process = scene.make(model, device)
    paths: list[Path] = []

    def keep(done: dp.Round) -> None:
        if done.round == 1:
            paths.append(checkpoint.save(tmp_path, done.window, {}))

    whole = dp.solve(process, STEPS, 4, tolerance=0.5, callback=keep)
    found, _ = checkpoint.load_window(paths[0])
    assert {t.device.type for s in found.states for t in scene.tensors(s).values()} == {"cpu"}
    states = tuple(to(state, device) for state in found.states)
    trend = {name: step.to(device) for name, step in found.trend.items()}
    rest = dp.solve(process, STEPS, 4, tolerance=0.5, state=Window(states, found.threshold, trend))
    assert equal(rest.state, whole.state)
