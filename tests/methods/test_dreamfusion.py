"""DreamFusion as a process: pure, drawn by step, the same alone and in a window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dreamprop as dp
from dreamprop.methods.config import LossConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.methods.step_sample import draw_step
from dreamprop.process import Process
from dreamprop.scenes.config import EncodingConfig, GeometryConfig, MaterialConfig
from dreamprop.state import State, equal
from tests.methods.small_dreamfusion import make, walk

ALL_LOSSES = LossConfig(lambda_orient=1.0, lambda_sparsity=1.0, lambda_opaque=1.0, lambda_tv=1.0)
FLOAT32 = 1e-4
"""Relative: sums over thousands of samples in another order."""


def close(a: dp.Drift, b: dp.Drift) -> None:
    assert a.grads.keys() == b.grads.keys()
    for name in a.grads:
        assert a.grads[name].shape == b.grads[name].shape
        assert (a.grads[name] - b.grads[name]).abs().max() <= FLOAT32 * a.grads[name].abs().max(), name


@pytest.mark.parametrize("kind", ["volume-grid", "implicit-volume"])
@pytest.mark.parametrize("losses", [LossConfig(), ALL_LOSSES], ids=["sds", "all"])
def test_a_window_agrees_with_separate_drifts(folder: Path, kind: str, losses: LossConfig) -> None:
    process = make(folder, kind, loss=losses, material=MaterialConfig(ambient_only_steps=1))
    states = walk(process, 4)
    for state, together in zip(states, process.drift_window(states), strict=True):
        close(process.drift(state), together)


def test_a_window_may_mix_resolutions_and_batch_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"batch_size": [1, 2], "width": [4, 8], "height": [4, 8], "resolution_milestones": [2]}
    process = make(folder, data=data)
    states = walk(process, 4)
    alone = [process.drift(s) for s in states]
    calls: list[int] = []
    unet = process.guidance.model.unet.forward
    monkeypatch.setattr(
        process.guidance.model.unet, "forward", lambda x, *a, **k: (calls.append(len(x)), unet(x, *a, **k))[1]
    )
    together = process.drift_window(states)
    assert calls == [2 * (1 + 1 + 2 + 2)]  # one call: guidance doubles the pictures
    for a, b in zip(alone, together, strict=True):
        close(a, b)
    assert not process.boundaries


def test_window_chunks_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = make(folder)
    states = walk(process, 3)
    whole = process.drift_window(states)
    monkeypatch.setattr("dreamprop.methods.rendering.CACHE", 1)
    for a, b in zip(whole, process.drift_window(states), strict=True):
        close(a, b)


def test_cores_do_not_matter(folder: Path) -> None:
    process = make(folder)
    states = walk(process, 5)
    whole = process.drift_window(states)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared = process.drift_window(states)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(whole, shared, strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", ["volume-grid", "implicit-volume"])
def test_a_drift_is_pure(folder: Path, kind: str) -> None:
    process = make(folder, kind, loss=ALL_LOSSES, material=MaterialConfig(ambient_only_steps=0))
    state = walk(process, 2)[-1]
    before = {n: t.clone() for n, t in (state.params | state.buffers).items()}
    random = torch.get_rng_state()
    first = process.drift(state)
    process.drift(walk(process, 1)[0])  # something else in between
    second = process.drift(state)
    third = make(folder, kind, loss=ALL_LOSSES, material=MaterialConfig(ambient_only_steps=0)).drift(state)
    for name in first.grads:
        assert torch.equal(first.grads[name], second.grads[name])
        assert torch.equal(first.grads[name], third.grads[name])
        assert not first.grads[name].requires_grad
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in (state.params | state.buffers).items())
    assert not any(p.requires_grad for p in state.params.values())


def test_draws_depend_on_seed_and_step_alone(folder: Path) -> None:
    process, other = make(folder), make(folder, seed=1)
    state = process.init()
    moved = State({n: p + 1 for n, p in state.params.items()}, state.moments, state.buffers, state.step)

    def drawn(process: DreamFusion, state: State) -> list[torch.Tensor]:
        d = draw_step(process.data, process.system, process.guidance, process.seed, state.step)
        return [d.uniform, d.normal, d.shift, d.background, d.guidance.timesteps, d.guidance.noise]

    same = zip(drawn(process, state), drawn(process, moved), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    for changed in (drawn(other, state), drawn(process, replace(state, step=1))):
        assert not any(torch.equal(a, b) for a, b in zip(drawn(process, state), changed, strict=True))


@pytest.mark.parametrize("kind", ["volume-grid", "implicit-volume"])
def test_the_loop_equals_the_sequential_run(folder: Path, kind: str) -> None:
    """Over an occupancy refresh for the hash grid and a growing volume grid; proofs need the serial evaluator."""
    geometry = GeometryConfig(
        resolution=[6, 9], resolution_milestones=[5], pos_encoding_config=EncodingConfig(n_levels=2)
    )
    process = make(folder, kind, geometry=geometry)
    assert isinstance(process, Process)
    assert list(process.boundaries) == ([5] if kind == "volume-grid" else [])
    base = dp.solve_sequential(process, 18 if kind == "implicit-volume" else 8)
    fast = dp.solve(process, 18 if kind == "implicit-volume" else 8, window=4, tolerance=0)
    assert equal(base.state, fast.state)
    if kind == "volume-grid":
        assert base.state.params["geometry.density"].shape == (9, 9, 9)
        assert base.state.moments["geometry.color/exp_avg_sq"].shape == (9, 9, 9, 3)


def test_pictures_of_a_result_are_deterministic_and_complete(folder: Path) -> None:
    process = make(folder, "volume-grid")
    state = process.init()
    pictures = process.render_views(state, num_views=3, width=10, height=6)
    assert pictures.shape == (3, 3, 6, 10) and pictures.min() >= 0 and pictures.max() <= 1
    assert torch.equal(pictures, process.render_views(state, num_views=3, width=10, height=6))
    assert torch.allclose(
        pictures[:, :, 0, 0], torch.tensor([0.6, 0.62, 0.66]), atol=1e-2
    )  # nothing in the corner
    assert (pictures[:, :, 3, 5] - 0.5).abs().max() < 0.05  # grey matter in the middle
    density, color = process.density_and_color(
        state, torch.tensor([[0.0, 0, 0], [0.9, 0.9, 0.9], [0, 0, 0.9]])
    )
    assert density[0] > 5 > density[2] and density[1] == 0
    assert color.shape == (3, 3) and ((color > 0.3) & (color < 0.7)).all()
    assert process.bound == 1.0


@pytest.mark.parametrize("particles", [1, 2])
def test_pictures_of_a_hash_grid_show_what_it_is_and_not_what_it_remembers(
    folder: Path, particles: int
) -> None:
    process = make(folder, "implicit-volume", num_particles=particles)
    state = process.init()
    memory = state.buffers["geometry.occupancy"]
    forgotten, everywhere = (
        process.render_views(replace(state, buffers={"geometry.occupancy": told}), 2, 16, 16)
        for told in (torch.zeros_like(memory), torch.full_like(memory, 100.0))
    )
    assert torch.equal(forgotten, everywhere)
    assert torch.equal(forgotten, process.render_views(state, 2, 16, 16))
    assert forgotten.std() > 0.01  # the blob is there


def test_opacity_tells_whether_anything_is_left(folder: Path) -> None:
    process = make(folder)
    full = process.init()
    gone = replace(full, params={name: torch.full_like(p, -30.0) for name, p in full.params.items()})
    assert process.opacity(full) > 0.02
    assert process.opacity(gone) < 1e-6


@pytest.mark.parametrize("name", ["ism", "sdi"])
def test_a_loss_of_several_calls_is_the_sequential_run_at_tolerance_0(folder: Path, name: str) -> None:
    def process() -> DreamFusion:
        return make(folder, guidance={"loss": name, "sdi_inversion_steps": 2})

    states = walk(process(), 4)
    assert equal(dp.solve(process(), 3, window=3, tolerance=0).state, states[-1])
    for state, together in zip(states, process().drift_window(states), strict=True):
        close(process().drift(state), together)
