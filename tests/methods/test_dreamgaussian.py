"""DreamGaussian as a process: pure, counted from accepted drifts alone, exact over all that becomes of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import dreamprop as dp
from dreamprop.checkpoint.expected import Expected
from dreamprop.errors import InputError
from dreamprop.methods.config import DreamGaussianConfig, LossConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.scenes.config import MaterialConfig
from dreamprop.scenes.gaussians import density_control
from dreamprop.scenes.gaussians.names import GRADIENT, OPACITY, RADIUS, SEEN
from dreamprop.solver.window import Window
from dreamprop.state import State, equal
from tests.methods.small_dreamgaussian import STEPS, make

FLOAT32 = 1e-4
"""Relative: sums over thousands of pairs in another order."""


def walk(process: DreamFusion, steps: int) -> list[State]:
    """The first states of the sequential run."""
    states = [process.init()]
    for _ in range(steps):
        states.append(process.update(states[-1], process.drift(states[-1])))
    return states


@pytest.fixture(scope="module")
def run(folder: Path) -> list[State]:
    return walk(make(folder), STEPS)


def test_everything_becomes_of_gaussians_in_the_run_that_is_compared(
    folder: Path, run: list[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the exact claims below are about: at two steps clones, parts and pruned ones, and lowered opacities."""
    found: list[list[int]] = []
    plain = density_control.index_map

    def noted(keep: torch.Tensor, clone: torch.Tensor, split: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found.append([int(t.sum()) for t in (clone, split, ~keep & ~split)])
        return plain(keep, clone, split)

    monkeypatch.setattr(density_control, "index_map", noted)
    process = make(folder)
    for step in (4, 8):
        assert equal(process.update(run[step - 1], process.drift(run[step - 1])), run[step])
    assert len(found) == 2 and all(count > 0 for counts in found for count in counts), found
    assert run[6].params[OPACITY].sigmoid().max() <= 0.0951 < run[5].params[OPACITY].sigmoid().max()
    assert run[4].buffers[SEEN].max() == 0 < run[6].buffers[SEEN].max() and run[3].buffers[SEEN].max() == 6


@pytest.mark.parametrize("window", [3, 5])
def test_tolerance_zero_equals_the_sequential_run(folder: Path, run: list[State], window: int) -> None:
    """Parameters, moments and counts, over clones, parts, pruning, lowered opacities and more pixels."""
    fast = dp.solve(make(folder), STEPS, window=window, tolerance=0)
    assert equal(fast.state, run[-1])


def test_tolerance_zero_equals_the_sequential_run_with_a_lora(folder: Path) -> None:
    """VSD: the corrections keep their size, and their moments, while Gaussians come and go beside them."""
    process = make(folder, loss="vsd")
    slow, fast = dp.solve_sequential(process, STEPS), dp.solve(process, STEPS, window=5, tolerance=0)
    learnt = [name for name in slow.state.params if name.startswith("guidance.")]
    assert any(slow.state.params[name].any() for name in learnt if ".lora_B." in name)
    assert equal(fast.state, slow.state)


def test_counts_are_those_of_the_accepted_drifts_and_hold_nothing_up(folder: Path) -> None:
    """With a tolerance: what was counted is what the accepted drifts told, and rejected ones left no trace."""
    process = make(folder, densify_from=10, densify_until=10, opacity_reset_interval=0)
    rolled: list[dict[str, torch.Tensor]] = []
    accepted: list[dict[str, torch.Tensor]] = []
    thrown_away = 0
    plain = process.update

    def update(state: State, drift: dp.Drift) -> State:
        rolled.append(drift.aux)
        return plain(state, drift)

    def after(round: dp.Round) -> None:
        nonlocal thrown_away
        accepted.extend(rolled[: round.stride])
        thrown_away += len(rolled) - round.stride
        rolled.clear()

    process.update = update  # type: ignore[method-assign]
    found = dp.solve(process, 9, window=4, tolerance=1.0, callback=after)
    assert len(accepted) == 9 > found.stats.num_rounds and thrown_away > 0, found.stats.strides
    for name in (GRADIENT, SEEN):
        assert torch.equal(found.state.buffers[name], sum(aux[name] for aux in accepted))
    largest = torch.stack([aux[RADIUS] for aux in accepted]).amax(0)
    assert torch.equal(found.state.buffers[RADIUS], largest) and found.state.buffers[SEEN].max() == 18


def test_a_window_agrees_with_separate_drifts(folder: Path, run: list[State]) -> None:
    """Over states of as many Gaussians, of other numbers, and pictures of other sizes."""
    process = make(folder)
    states = [run[i] for i in (2, 3, 4, 7, 9, 10)]
    for state, together in zip(states, process.drift_window(states), strict=True):
        alone = process.drift(state)
        assert alone.grads.keys() == together.grads.keys() == state.params.keys()
        for one, other in ((alone.grads, together.grads), (alone.aux, together.aux)):
            for name in one:
                assert one[name].shape == other[name].shape
                scale = float(one[name].abs().max())
                assert (one[name] - other[name]).abs().max() <= FLOAT32 * scale, name


def test_a_drift_is_pure_and_reads_no_counts(folder: Path, run: list[State]) -> None:
    process, state = make(folder), run[9]
    before = {n: t.clone() for n, t in (state.params | state.buffers).items()}
    first = process.drift(state)
    other = {name: b + 1 for name, b in state.buffers.items()}
    second = make(folder).drift(State(state.params, {}, other, state.step))
    assert all(torch.equal(first.grads[n], second.grads[n]) for n in first.grads)
    assert all(torch.equal(first.aux[n], second.aux[n]) for n in first.aux)
    assert all(torch.equal(before[n], t) for n, t in (state.params | state.buffers).items())


def test_boundaries_are_known_and_sizes_are_not(folder: Path, run: list[State]) -> None:
    process = make(folder)
    assert process.boundaries == {4, 6, 8, 12} and process.predictive and not process.known_sizes
    expected = Expected.of(process, STEPS)
    for state in run:
        expected.check(Window((state,)))
    passed = process.skip_update(run[3])
    assert passed is not None and passed.step == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": LossConfig(lambda_orient=1.0)},
        {"loss": LossConfig(lambda_tv=[0, 0.0, 1.0, 9])},
        {"material": MaterialConfig(ambient_only_steps=5)},
        {"num_particles": 2},
    ],
)
def test_what_gaussians_have_not_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="gaussian-splatting"):
        DreamGaussianConfig(**wrong)


def test_sizes_of_groups_and_learning_rates(folder: Path) -> None:
    rates: Sequence[float | None] = [group.step for group in make(folder).groups(0).values()]
    assert len(rates) == 6 and len(set(rates)) > 3
