"""Exact claims, compared bit for bit: what the accelerated loop promises to share with the sequential one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dreamprop as dp
from dreamprop.process import Group
from dreamprop.solver.controller import Paper, Step, remembered
from dreamprop.solver.norms import Norms
from dreamprop.solver.window import advance
from dreamprop.state import clone, equal
from tests.solver.chains import Growing, Toy, optimizer, shuffled

WINDOWS = (1, 2, 3, 8, 17)
NAMES = ("SGD", "Adam", "AdamW", "Adan")
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("kind", [Toy, Growing])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_tolerance_0_is_sequential(kind: type[Toy], name: str, dtype: torch.dtype) -> None:
    process = kind(optimizer(name), dtype)
    expected = dp.solve_sequential(process, 30)
    for window in WINDOWS:
        for predictor in ("momentum", "hold") if window == 8 else ("momentum",):
            got = dp.solve(process, 30, window, 0, predictor=predictor, evaluator=shuffled)
            assert equal(got.state, expected.state), (window, predictor)


@pytest.mark.parametrize("kind", [Toy, Growing])
@pytest.mark.parametrize("rule", ["step", "paper"])
def test_window_1_is_sequential(kind: type[Toy], rule: str) -> None:
    process = kind(optimizer("Adam"))
    expected = dp.solve_sequential(process, 25)
    got = dp.solve(process, 25, window=1, error_rule=rule)
    assert equal(got.state, expected.state)
    assert got.stats.num_rounds == got.stats.num_drifts == 25
    assert got.stats.speedup_rounds == 1


def test_tolerance_0_accelerates_where_guesses_become_exact() -> None:
    """Not every round is a single step: a second sweep reproduces bits, and they are accepted."""
    got = dp.solve(Toy(optimizer("Adam"), torch.float32), 40, 8, 0)
    assert got.stats.num_rounds < 40


def test_a_buffer_that_differs_is_no_exact_guess() -> None:
    """Parameters that do not move and a drift that reads a buffer: only that tells a guess from the truth."""

    class Counting(Toy):
        def drift(self, state: dp.State) -> dp.Drift:
            count = state.buffers["count"].to(self.dtype)
            return dp.Drift(
                {n: (p * 0 + count if state.step >= 5 else p * 0) for n, p in state.params.items()}
            )

    process = Counting(optimizer("SGD"))
    expected = dp.solve_sequential(process, 12)
    assert equal(dp.solve(process, 12, 4, 0).state, expected.state)


def test_differences_that_vanish_when_squared_are_differences() -> None:
    """1e-30 squared is 0 in float32, and a tolerance of 0 must see it."""

    class Small(Toy):
        def init(self) -> dp.State:
            state = super().init()
            return dp.State({n: p * 0 for n, p in state.params.items()}, state.moments, state.buffers, 0)

        def drift(self, state: dp.State) -> dp.Drift:
            return dp.Drift(
                {n: p * 0 + (1e-30 if state.step == 2 else 0) + p for n, p in state.params.items()}
            )

    process = Small(optimizer("SGD", momentum=0, nesterov=False), torch.float32)
    assert equal(dp.solve(process, 9, 4, 0).state, dp.solve_sequential(process, 9).state)


@pytest.mark.parametrize("rule", ["step", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_in_place(name: str, rule: str) -> None:
    """Every tensor that a drift, an update or the callback was shown keeps its value and its version."""
    seen: list[tuple[dp.State, dp.State, list[int]]] = []

    def watch(state: dp.State) -> None:
        tensors = [*state.params.values(), *state.moments.values(), *state.buffers.values()]
        seen.append((state, clone(state), [t._version for t in tensors]))

    class Watched(Growing):
        def drift(self, state: dp.State) -> dp.Drift:
            watch(state)
            return super().drift(state)

        def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
            watch(state)
            return super().update(state, drift)

    process = Watched(optimizer(name))
    first = process.init()
    watch(first)
    dp.solve(process, 20, 6, error_rule=rule, state=first, callback=lambda done: watch(done.state))
    for state, copied, versions in seen:
        tensors = [*state.params.values(), *state.moments.values(), *state.buffers.values()]
        assert equal(state, copied) and [t._version for t in tensors] == versions


def test_moments_of_the_accepted_state_are_not_those_of_rejected_steps() -> None:
    """The aliasing trap: a rollout that goes on in the accepted state's memory changes the result."""
    process = Toy(optimizer("Adam"), noise=1.0)
    expected = dp.solve_sequential(process, 60)
    states: dict[int, dp.State] = {}
    got = dp.solve(process, 60, 7, 0, callback=lambda done: states.update({done.step: done.state}))
    assert got.stats.num_drifts > got.stats.num_steps  # some were rejected
    assert equal(got.state, expected.state)
    along = dp.solve_sequential(process, 60, callback=lambda done: _agrees(states, done.state))
    assert equal(along.state, expected.state)


def _agrees(states: dict[int, dp.State], state: dp.State) -> None:
    if state.step in states:
        assert equal(states[state.step], state)


@pytest.mark.parametrize("window", WINDOWS)
def test_no_window_crosses_a_boundary(window: int) -> None:
    """States evaluated together have one shape, whatever the window."""
    process = Growing(optimizer("Adam"))
    batches: list[list[int]] = []

    def evaluator(chain: dp.Process, states: Sequence[dp.State]) -> list[dp.Drift]:
        batches.append([s.step for s in states])
        assert len({s.params["b"].shape for s in states}) == 1
        return dp.evaluate.serial(chain, states)

    for rule in ("step", "paper"):
        got = dp.solve(process, 30, window, error_rule=rule, evaluator=evaluator)
        assert got.state.step == 30
    for steps in batches:
        assert not any(step in process.boundaries for step in steps[1:])
        assert steps[-1] < 30
    if window > 3:
        assert {tuple(steps[:1]) for steps in batches} >= {(t,) for t in process.boundaries}


def test_a_boundary_that_is_not_declared_is_named() -> None:
    class Silent(Growing):
        boundaries = ()

        @property
        def schedule(self) -> dict[int, float]:
            return {6: 1.5}

    with pytest.raises(ValueError, match=r"must not change at step 6.*boundaries") as caught:
        dp.solve(Silent(optimizer("SGD")), 20, 8)
    assert "\n" not in str(caught.value)


def test_going_on_from_a_state_is_one_run() -> None:
    process = Growing(optimizer("Adan"))
    whole = dp.solve_sequential(process, 24)
    half = dp.solve(process, 11, 5, 0)
    rest = dp.solve(process, 24, 8, 0, state=half.state)
    assert equal(rest.state, whole.state)
    assert rest.stats.num_steps == 13


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**31),
    lr=st.floats(1e-4, 0.5),
    noise=st.floats(0, 2),
    window=st.integers(1, 12),
    steps=st.integers(0, 18),
    tolerance=st.one_of(st.just(0.0), st.floats(0.01, 10)),
    growing=st.booleans(),
    rule=st.sampled_from(["step", "paper"]),
)
def test_any_chain(
    name: str,
    seed: int,
    lr: float,
    noise: float,
    window: int,
    steps: int,
    tolerance: float,
    growing: bool,
    rule: str,
) -> None:
    """For any chain: it arrives, the counts add up, and it is exact where that was asked for."""
    process = (Growing if growing else Toy)(optimizer(name, lr), torch.float32, seed, noise)
    if tolerance == 0:
        rule = "step"
    rounds: list[dp.Round] = []
    got = dp.solve(process, steps, window, tolerance, error_rule=rule, callback=rounds.append)
    assert got.state.step == steps == sum(got.stats.strides)
    assert got.stats.num_rounds == len(rounds) == len(got.stats.strides)
    assert got.stats.num_drifts + len(got.stats.audits) == len(process.evaluated)
    assert got.stats.num_drifts <= got.stats.num_rounds * window
    assert all(1 <= done.stride <= len(done.errors) == done.drifts and done.errors[0] == 0 for done in rounds)
    if rule == "step":
        assert all(error <= tolerance for done in rounds for error in done.errors[: done.stride])
    if tolerance == 0:
        assert equal(got.state, dp.solve_sequential(process, steps).state)


def test_what_came_of_a_bad_guess_is_forgotten() -> None:
    states = [Toy(optimizer("Adam")).init() for _ in range(6)]
    groups = [{"all": Group(("p",), 0.1)}] * 6
    norms = [Norms({"p": (0.1 * error) ** 2}, {}, {"p": 1}, True) for error in (0.5, 1.2, 1.9, 2.1, 0.1)]
    norms.append(Norms(None, {}, {"p": 1}, False))  # behind the last slot nothing was guessed
    ends = [remembered(Step(1.0), norms, groups, stride) for stride in (2, 4, 5)]
    assert ends == [4, 4, 6], "the drift of slot 4 was evaluated at a guess that was off by 2.1"
    assert advance(states, 2, 4) == states[1:4] and advance(states, 5, 6) == states[4:]
    assert remembered(Paper(), norms, groups, 2) == remembered(Step(1.0), norms[:4], groups, 2) + 2 == 6


class Plain(dp.Process):
    """A chain that knows nothing of momentum: its guesses are copies, whichever predictor is asked for."""

    def __init__(self) -> None:
        toy = Toy(optimizer("Adam"))
        self.init, self.drift, self.update, self.groups = toy.init, toy.drift, toy.update, toy.groups  # type: ignore[method-assign]


def test_copies_are_not_preferred_to_what_was_rolled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Norms] = []
    monkeypatch.setattr(Step, "forgets", lambda self, norms, groups: bool(asked.append(norms)))
    assert min(dp.solve(Plain(), 30, 8, 0.7).stats.strides) < 8 and not asked
    assert min(dp.solve(Toy(optimizer("Adam")), 30, 8, 0.7).stats.strides) < 8 and asked


@pytest.mark.parametrize("tolerance", [0.0, 0.7])
def test_a_restart_carries_the_accepted_state_alone(tolerance: float) -> None:
    """But where guesses must be exact: rolled-out states become so, and fresh guesses do not."""
    carried: list[int] = []
    process = Toy(optimizer("Adam"))
    got = dp.solve(
        process,
        30,
        8,
        tolerance,
        predictor="restart",
        callback=lambda done: carried.append(len(done.carried_states)),
    )
    assert min(got.stats.strides) < 8 and (set(carried) == {1}) == (tolerance > 0)


def test_a_guess_is_bad_by_its_parameters() -> None:
    """Of buffers a fresh guess knows less than what was rolled out; where guesses must be exact, of anything."""
    groups = {"all": Group(("p",), 0.1)}

    def off(steps: float, buffers: float = 0.0) -> Norms:
        return Norms({"p": 4 * (0.1 * steps) ** 2}, {}, {"p": 4}, True, {"b": buffers})

    assert [Step(0.02).forgets(off(x), groups) for x in (1.9, 2.1)] == [False, True]
    assert [Step(1.5).forgets(off(x), groups) for x in (2.9, 3.1, math.nan)] == [False, True, True]
    assert Step(1.5).error(off(0.5, 40.0), groups) == 40.0 and not Step(1.5).forgets(off(0.5, 40.0), groups)
    assert not Step(0.0).forgets(off(9.0), groups) and not Paper().forgets(off(9.0), groups)
