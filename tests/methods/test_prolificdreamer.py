"""A guidance that learns, inside the chain: what it has learnt is part of the state, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.errors import InputError
from dreamprop.guidance.lora import CAMERA, LORA
from dreamprop.methods.config import LossConfig, OptimizerConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.scenes.config import EncodingConfig, GeometryConfig, MaterialConfig
from dreamprop.state import equal
from tests.methods.small_dreamfusion import make, walk

ALL_LOSSES = LossConfig(lambda_orient=1.0, lambda_sparsity=1.0, lambda_opaque=1.0, lambda_tv=1.0)
OPTIMIZER = OptimizerConfig(
    args={"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8}, params={LORA: {"lr": 0.02}, CAMERA: {"lr": 0.01}}
)
FLOAT32 = 1e-4
"""Relative to the largest of a group: sums over thousands of samples in another order."""


def prolific(folder: Path, kind: str = "volume-grid", particles: int = 2, **settings: Any) -> DreamFusion:
    """Particles that share four pictures of 8 x 8, corrections that learn quickly."""
    settings = {"data": {"batch_size": 4}, "optimizer": OPTIMIZER, **settings}
    return make(folder, kind, guidance={"loss": "vsd"}, num_particles=particles, **settings)


@pytest.mark.parametrize("kind", ["volume-grid", "implicit-volume"])
def test_the_loop_equals_the_sequential_run(folder: Path, kind: str, tmp_path: Path) -> None:
    """Over growing particles or an occupancy refresh, corrections and all moments included; and a pause on disk."""
    geometry = GeometryConfig(
        resolution=[6, 9], resolution_milestones=[5], pos_encoding_config=EncodingConfig(n_levels=2)
    )
    process = prolific(folder, kind, geometry=geometry)
    start = replace(process.init(), step=2 if kind == "volume-grid" else 13)
    steps = start.step + 5
    base = dp.solve_sequential(process, steps, state=start)
    fast = dp.solve(process, steps, window=3, tolerance=0, state=start)
    assert fast.stats.num_drifts > 5  # evaluations were thrown away, and left no trace
    assert equal(base.state, fast.state)
    half = dp.solve_sequential(process, start.step + 2, state=start).state
    checkpoint.save(tmp_path, half, {})
    again, _ = checkpoint.load(checkpoint.latest(tmp_path))
    assert equal(dp.solve(process, steps, window=3, tolerance=0, state=again).state, base.state)
    learnt = [name for name in start.params if name.startswith((LORA, CAMERA))]
    assert len(learnt) > 20 and all(f"{name}/exp_avg_sq" in base.state.moments for name in learnt)
    assert all((base.state.params[name] != start.params[name]).any() for name in learnt)
    scene = base.state.params["geometry.color" if kind == "volume-grid" else "geometry.encoding"]
    assert len(scene) == 2 and not torch.equal(scene[0], scene[1])


@pytest.mark.parametrize(
    "data", [{}, {"batch_size": [2, 4], "resolution_milestones": [2]}], ids=["alike", "unlike"]
)
def test_a_window_agrees_with_separate_drifts(folder: Path, data: dict[str, Any]) -> None:
    shading = MaterialConfig(ambient_only_steps=1)
    process = prolific(folder, data={"batch_size": 4, **data}, loss=ALL_LOSSES, material=shading)
    states = walk(process, 4)
    for state, together in zip(states, process.drift_window(states), strict=True):
        alone = process.drift(state)
        assert alone.grads.keys() == together.grads.keys()
        for group in process.groups(0).values():
            scale = max(float(alone.grads[name].abs().max()) for name in group.names)
            for name in group.names:
                assert (alone.grads[name] - together.grads[name]).abs().max() <= FLOAT32 * scale, name


def test_a_particle_is_a_scene_with_its_share_of_the_pictures(folder: Path) -> None:
    """Each particle's gradient comes from its own pictures alone, and losses are means over particles."""
    process = prolific(folder, loss=ALL_LOSSES)
    state = walk(process, 2)[-1]
    moved = dp.State(
        {name: p.clone() for name, p in state.params.items()}, state.moments, state.buffers, state.step
    )
    moved.params["geometry.density"][1] += 0.5
    before, after = process.drift(state), process.drift(moved)
    density = "geometry.density"
    first = before.grads[density][0]
    assert (first - after.grads[density][0]).abs().max() <= FLOAT32 * first.abs().max()
    assert (before.grads[density][1] - after.grads[density][1]).abs().max() > 0.01 * first.abs().max()
    one = process.render_views(state, num_views=2, width=8, height=8)
    assert torch.allclose(
        one, process.render_views(moved, num_views=2, width=8, height=8)
    )  # the first is shown


def test_groups_have_units_of_their_own(folder: Path) -> None:
    groups = prolific(folder).groups(0)
    assert {name: group.step for name, group in groups.items()} == {
        "geometry.density": 0.1, "geometry.color": 0.1, LORA: 0.02, CAMERA: 0.01,
    }  # fmt: skip
    plain = make(folder, guidance={"loss": "vsd"})
    assert plain.groups(0)[LORA].step == 1e-4  # not the scene's


def test_other_losses_have_nothing_to_learn(folder: Path) -> None:
    process = make(folder)
    assert not [name for name in process.init().params if name.startswith("guidance.")]
    assert set(process.groups(0)) == {"geometry.density", "geometry.color"}


def test_pictures_that_cannot_be_shared_are_refused(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"data\.batch_size must be a multiple of system\.num_particles \(3\), got 4; use 6"
    ):
        prolific(folder, particles=3)
