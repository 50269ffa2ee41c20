"""A system as a chain, on the small double: against a loop in Lightning's order, and against itself."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.rng import seeded
from dreamprop.state import State, equal
from dreamprop.threestudio.empty_renders import WORDS
from dreamprop.threestudio.precision import GROWTH, SCALE, Scaling, StepSettings
from dreamprop.threestudio.purity import check
from dreamprop.threestudio.system import Threestudio

from . import double
from .double import CPU, System

STEPS = 14


def chain(terms: StepSettings | None = None, system: Any = None, **options: Any) -> Threestudio:
    return Threestudio(system or System(**options), double.loader(), seed=3, settings=terms)


def same(state: State, system: System, optimizer: torch.optim.Optimizer) -> None:
    parameters, buffers = dict(system.named_parameters()), dict(system.named_buffers())
    for name, value in state.params.items():
        assert torch.equal(value, parameters[name]), name
        for what, moment in optimizer.state[parameters[name]].items():
            assert torch.equal(state.moments[f"{name}/{what}"], moment), (name, what)
    for name in ("geometry.grid.occs", "geometry.grid.binaries", "geometry.count"):
        assert torch.equal(state.buffers[name], buffers[name]), name


@pytest.mark.parametrize(
    ("terms", "options"),
    [
        (StepSettings(), {}),
        (StepSettings(accumulate=2), {"accumulate": 2}),
        (StepSettings(clip=0.05), {"clip": 0.05}),
        (StepSettings(accumulate=3, clip=0.1), {"accumulate": 3, "clip": 0.1}),
    ],
    ids=["plain", "accumulate", "clip", "both"],
)
@pytest.mark.parametrize("schedule", [False, True])
def test_the_chain_is_the_loop_bit_for_bit(
    terms: StepSettings, options: dict[str, Any], schedule: bool
) -> None:
    system = System(schedule)
    optimizer = double.fit(system, STEPS, seed=3, **options)
    same(dp.solve_sequential(chain(terms, schedule=schedule), STEPS).state, system, optimizer)


@pytest.mark.parametrize("window", [2, 5])
def test_exact_in_parallel(window: int) -> None:
    sequential = dp.solve_sequential(chain(), STEPS).state
    exact = dp.solve(chain(), STEPS, window=window, tolerance=0)
    assert equal(exact.state, sequential)
    fast = dp.solve(chain(), STEPS, window=window)
    assert fast.stats.num_rounds < STEPS


def test_what_is_thrown_away_leaves_no_trace() -> None:
    """In any order, drifts are those of the run: masks shrink again, widths and grids go back."""
    process = chain()
    states = [process.init()]
    drifts = []
    for _ in range(STEPS):
        drifts.append(process.drift(states[-1]))
        states.append(process.update(states[-1], drifts[-1]))
    order = list(range(STEPS))
    random.Random(0).shuffle(order)
    for t in order:
        again = process.drift(states[t])
        found, expected = again.tensors(), drifts[t].tensors()
        assert found.keys() == expected.keys() and {path[0] for path in found} >= {"grads", "writes"}
        assert all(torch.equal(found[path], expected[path]) for path in expected)


def test_the_callers_generators_are_left_alone() -> None:
    process = chain()
    state = process.init()
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    process.drift(state)
    process.drift_window([state, process.predict(state)])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_logs_are_those_of_accepted_steps() -> None:
    process = chain()
    dp.solve(process, 6, window=3, tolerance=0)
    taken = process.take_log(6)
    assert [log.step for log in taken] == list(range(6))
    assert all(set(log.metrics) == {"train/loss"} and not log.empty for log in taken)
    assert process.take_log(6) == []


class Emptying(System):
    """Its second step renders nothing, which threestudio logs once a render."""

    def training_step(self, batch: Any, index: int) -> Any:
        if index == 1:
            logging.getLogger("pytorch_lightning").warning(WORDS)
        return super().training_step(batch, index)


def test_a_render_without_samples_is_told_beside_what_was_logged() -> None:
    process = chain(system=Emptying())
    dp.solve(process, 4, window=3, tolerance=0)
    taken = process.take_log(4)
    assert [log.empty for log in taken] == [False, True, False, False]
    assert all(set(log.metrics) == {"train/loss"} for log in taken)


def test_a_scaler_halves_and_doubles_as_torchs_does() -> None:
    numbers = Scaling(init_scale=2.0**127, growth_interval=3)
    process = chain(StepSettings(scaling=numbers))
    state = dp.solve_sequential(process, STEPS).state
    system = System()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=3)
    optimizer = double.fit(system, STEPS, seed=3, scaler=scaler)
    same(state, system, optimizer)
    assert float(state.buffers[SCALE]) == scaler.get_scale()
    assert int(state.buffers[GROWTH]) == scaler.state_dict()["_growth_tracker"]
    # some steps overflowed, and were not taken
    assert int(state.moments["background.weight/step"]) < STEPS
    assert equal(dp.solve(chain(StepSettings(scaling=numbers)), STEPS, window=4, tolerance=0).state, state)


def test_resumed_from_a_state_in_the_middle() -> None:
    middle = dp.solve_sequential(chain(), 6).state
    whole = dp.solve_sequential(chain(), STEPS).state
    assert equal(dp.solve_sequential(chain(), STEPS, state=middle).state, whole)


def test_pure() -> None:
    process = chain()
    found = check(process, process.init(), ahead=5)
    assert found.pure
    assert found.changed == ()
    assert "a function of its state" in found.line()


class Hidden(System):
    """Remembers a step in a list, where it cannot be put back."""

    def __init__(self, harm: bool) -> None:
        super().__init__()
        self.seen: list[float] = []
        self._harm = harm

    def training_step(self, batch: Any, index: int) -> Any:
        out = super().training_step(batch, index)
        self.seen.append(float(out["loss"].detach()))
        return {"loss": out["loss"] * (len(self.seen) if self._harm else 1)}


def test_what_a_step_remembers_is_named() -> None:
    process = chain(system=Hidden(harm=True))
    found = check(process, process.init())
    assert not found.pure
    assert "seen" in found.changed
    assert "geometry" in found.line() and "steps also write seen" in found.line()
    assert "\n" not in found.line()
    process = chain(system=Hidden(harm=False))
    found = check(process, process.init())
    assert found.pure
    assert "to no effect" in found.line()


class Self(System):
    """Trains a part of itself inside the step."""

    def __init__(self) -> None:
        super().__init__()
        self.proposal = nn_linear()

    def training_step(self, batch: Any, index: int) -> Any:
        with torch.no_grad():
            self.proposal.weight += 1
        return super().training_step(batch, index)


def nn_linear() -> torch.nn.Linear:
    return torch.nn.Linear(2, 2)


def test_what_trains_itself_is_refused() -> None:
    process = chain(system=Self())
    found = check(process, process.init())
    assert not found.pure
    assert "proposal.weight" in found.line()


class Manual(System):
    automatic_optimization = False


class Two(System):
    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()["optimizer"]
        return [made, made]


@pytest.mark.parametrize(("kind", "words"), [(Manual, "automatic_optimization"), (Two, "one optimiser")])
def test_refused(kind: type[System], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        chain(system=kind())
    assert "\n" not in str(caught.value)


class Counting(torch.optim.Optimizer):
    """Counts its steps in its groups, as threestudio's Adan does."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-group["lr"] / group["step"])


class Grouped(System):
    def configure_optimizers(self) -> Any:
        return Counting(self.parameters())


def test_what_an_optimiser_remembers_of_a_group() -> None:
    process = chain(system=Grouped())
    state = dp.solve_sequential(process, 5).state
    assert float(state.moments["group.0/step"]) == 5
    system = Grouped()
    optimizer = Counting(system.parameters())
    system.configure_optimizers = lambda: {"optimizer": optimizer}  # type: ignore[method-assign]
    double.fit(system, 5, seed=3)
    for name, parameter in system.named_parameters():
        assert torch.equal(parameter, state.params[name])


def test_a_batch_shows_a_data_set_two_steps_old() -> None:
    process = chain()
    batches = process.replica._step_data
    with seeded(0, 0, CPU):
        sizes = [len(batches.at(t)["points"]) for t in (0, 6, 7, 3, 1)]
    assert sizes == [2, 2, 4, 2, 2]
