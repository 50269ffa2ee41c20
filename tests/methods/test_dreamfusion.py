"""DreamFusion as a process: pure, drawn by step, the same alone and in a window."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.methods.config import DataConfig, LossConfig, OptimizerConfig, SystemConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.methods.step_sample import draw_step
from dreamprop.process import Process
from dreamprop.scenes.config import EncodingConfig, GeometryConfig, MaterialConfig, RendererConfig
from dreamprop.state import State, equal
from tests.guidance import tiny

ALL_LOSSES = LossConfig(lambda_orient=1.0, lambda_sparsity=1.0, lambda_opaque=1.0, lambda_tv=1.0)
FLOAT32 = 1e-4
"""Relative: sums over thousands of samples in another order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"))


def make(
    folder: Path, kind: str = "volume-grid", seed: int = 0, data: dict[str, Any] | None = None, **system: Any
) -> DreamFusion:
    system.setdefault(
        "geometry", GeometryConfig(resolution=8, pos_encoding_config=EncodingConfig(n_levels=2))
    )
    config = SystemConfig(
        geometry_type=kind,
        renderer=RendererConfig(num_samples_per_ray=12, eval_num_samples_per_ray=16),
        prompt_processor=PromptConfig(prompt="a red torus"),
        guidance=GuidanceConfig(pretrained_model_name_or_path=str(folder)),
        **system,
    )
    data = {"batch_size": 2, "width": 8, "height": 8, **(data or {})}
    return DreamFusion(DataConfig(**data), config, seed=seed, max_steps=100)


def walk(process: DreamFusion, steps: int) -> list[State]:
    states = [process.init()]
    for _ in range(steps - 1):
        states.append(process.update(states[-1], process.drift(states[-1])))
    return states


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
        d = draw_step(process.data, process.system.material, process.guidance, process.seed, state.step)
        return [d.uniform, d.normal, d.shift, d.background, d.guidance.timesteps, d.guidance.noise]

    same = zip(drawn(process, state), drawn(process, moved), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    for changed in (drawn(other, state), drawn(process, replace(state, step=1))):
        assert not any(torch.equal(a, b) for a, b in zip(drawn(process, state), changed, strict=True))


def test_weights_follow_the_step_of_the_state(folder: Path) -> None:
    """A weight that is 0 at one step and 1 at another: the same process, asked in any order."""
    scheduled = make(folder, loss=LossConfig(lambda_sparsity=[0, 0.0, 1.0, 1]))
    never = make(folder, loss=LossConfig(lambda_sparsity=0.0))
    always = make(folder, loss=LossConfig(lambda_sparsity=1.0))
    start = never.init()
    later = replace(start, step=1)
    for state, twin in ((later, always), (start, never), (later, always)):
        a, b = scheduled.drift(state), twin.drift(state)
        assert all(torch.equal(a.grads[n], b.grads[n]) for n in a.grads)
    a, b = always.drift(start), never.drift(start)
    assert not all(torch.equal(a.grads[n], b.grads[n]) for n in a.grads)


@pytest.mark.parametrize("name", ["orient", "sparsity", "opaque", "tv"])
def test_each_loss_matters_and_is_finite(folder: Path, name: str) -> None:
    plain, with_loss = make(folder), make(folder, loss=LossConfig(**{f"lambda_{name}": 10.0}))
    state = walk(plain, 3)[-1]
    a, b = plain.drift(state), with_loss.drift(state)
    assert not torch.equal(a.grads["geometry.density"], b.grads["geometry.density"])
    assert all(torch.isfinite(g).all() for g in b.grads.values())


def test_gradient_is_that_of_the_written_loss(folder: Path) -> None:
    """The parameters' gradient against difference quotients of the same pictures times guidance's gradient."""
    process = make(folder, loss=LossConfig(lambda_sds=2.0, lambda_sparsity=0.0), data={"batch_size": 1})
    state = walk(process, 2)[-1]
    found = process.drift(state).grads["geometry.density"]
    seen: list[torch.Tensor] = []
    original = type(process.guidance).gradient

    def spy(self: Any, pictures: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        z, grad = original(self, pictures, *rest)
        seen[:] = [z.detach().double(), grad.double()]
        return z, grad

    type(process.guidance).gradient, restore = spy, original  # type: ignore[method-assign]
    try:
        process.drift(state)
        push = seen[1]
        place = tuple(int(i) for i in (found.abs() == found.abs().max()).nonzero()[0])
        values = []
        for sign in (1, -1):
            moved = state.params["geometry.density"].clone()
            moved[place] += sign * 1e-2
            process.drift(replace(state, params={**state.params, "geometry.density": moved}))
            values.append(float((seen[0] * push).sum()))
    finally:
        type(process.guidance).gradient = restore  # type: ignore[method-assign]
    assert 2.0 * (values[0] - values[1]) / 2e-2 == pytest.approx(found[place].item(), rel=2e-2)


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


def test_learning_rates_by_group(folder: Path) -> None:
    process = make(
        folder,
        optimizer=OptimizerConfig(
            args={"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-15},
            params={"geometry.density": {"lr": [0, 0.2, 0.1, 10]}},
        ),
    )
    assert {n: g.step for n, g in process.groups(5).items()} == {
        "geometry.density": pytest.approx(0.15), "geometry.color": 0.1,
    }  # fmt: skip
    assert set(make(folder, "implicit-volume").groups(0)) == {"geometry.encoding", "geometry.network"}
    start = process.init()
    moved = process.update(start, process.drift(start))
    step = (moved.params["geometry.density"] - start.params["geometry.density"]).abs().max()
    assert step.item() == pytest.approx(0.2, rel=1e-3)  # Adam's first step is the learning rate
    assert moved.step == 1 and process.predict(moved).step == 2


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


def test_what_only_the_parts_can_judge_is_told_in_one_line(folder: Path) -> None:
    for options, words in (
        ({"params": {"geometry.texture": {"lr": 1}}}, "must name groups of geometry.density, geometry.color"),
        ({"args": {"lr": 0.1, "momentum": 0.9}}, r"must hold options of Adam \(lr, .*\), got 'momentum'"),
        (
            {"params": {"geometry.density": {"speed": 1}}},
            r"must hold options of Adam \(lr, .*\), got 'speed'",
        ),
    ):
        with pytest.raises(ValueError, match=words) as told:
            make(folder, optimizer=OptimizerConfig(**options))
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="cuboid"):
        DreamFusion(
            DataConfig(), SystemConfig(prompt_processor=PromptConfig(prompt="a red cuboid")), max_steps=1
        )


@pytest.mark.parametrize(
    ("make_config", "words"),
    [
        (lambda: DataConfig(batch_size=0), "data.batch_size must be a whole number >= 1"),
        (
            lambda: DataConfig(width=[16, 32]),
            "data.width must have one value more than resolution_milestones",
        ),
        (lambda: DataConfig(resolution_milestones=[5, 5]), "must be rising steps"),
        (lambda: DataConfig(elevation_range=[10, 0]), r"must be \[low, high\]"),
        (lambda: GeometryConfig(density_activation="relu"), "must be one of softplus, exp"),
        (lambda: GeometryConfig(resolution=2), "must be a whole number >= 4"),
        (lambda: GuidanceConfig(weighting_strategy="none"), "must be one of sds, uniform, fantasia3d"),
        (
            lambda: GuidanceConfig(max_step_percent=1.5),
            "max_step_percent must be a finite number <= 1, got 1.5",
        ),
        (lambda: GuidanceConfig(guidance_scale=[1, 2]), r"guidance_scale must be a number or \[start_step"),
        (lambda: LossConfig(lambda_sds=-1.0), "lambda_sds must be a finite number >= 0"),
        (lambda: OptimizerConfig(name="Lion"), "must be one of SGD, Adam, AdamW, Adan"),
        (lambda: SystemConfig(geometry_type="mesh"), "must be one of volume-grid, implicit-volume"),
        (lambda: RendererConfig(prune_alpha=math.nan), "must be a finite number >= 0 and < 1, got nan"),
    ],
)
def test_settings_are_checked_where_they_are_made(make_config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        make_config()
    assert "\n" not in str(told.value) and ";" in str(told.value)


def test_opacity_tells_whether_anything_is_left(folder: Path) -> None:
    process = make(folder)
    full = process.init()
    gone = replace(full, params={name: torch.full_like(p, -30.0) for name, p in full.params.items()})
    assert process.opacity(full) > 0.02
    assert process.opacity(gone) < 1e-6
