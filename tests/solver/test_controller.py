"""Errors have units, NaN is never small, and wrong input is told in one line."""

from __future__ import annotations

import math

import pytest
import torch

import dreamprop as dp
from dreamprop.errors import NonFiniteDrift
from dreamprop.solver.controller import Paper, Step, accept
from dreamprop.solver.norms import Norms, measure
from dreamprop.state import equal
from tests.solver.chains import Growing, Toy, optimizer


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("window", [0, 1, 3, 8])
@pytest.mark.parametrize("rule", ["step", "paper"])
def test_a_drift_that_is_not_finite_is_reported(window: int, bad: float, rule: str) -> None:
    def spoil(step: int, grad: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(grad.numel()) == 2, bad, grad) if step == 5 else grad

    process = Toy(optimizer("Adam"), spoil=spoil)
    reached: list[dp.State] = []
    with pytest.raises(NonFiniteDrift, match=r"step 5 .*'main'.*'b'") as caught:
        if window:
            dp.solve(process, 20, window, error_rule=rule, callback=lambda done: reached.append(done.state))
        else:
            dp.solve_sequential(process, 20, callback=lambda done: reached.append(done.state))
    assert (caught.value.step, caught.value.group, caught.value.parameter) == (5, "main", "b")
    assert reached[-1].step == 5  # everything before it was accepted
    assert all(p.isfinite().all() for state in reached for p in state.params.values())


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_a_guess_at_which_the_drift_is_not_finite_is_evaluated_again(tolerance: float) -> None:
    """Only a guess is bad here: the run goes on, and never uses what was not finite."""

    class Fragile(Toy):
        def drift(self, state: dp.State) -> dp.Drift:
            drift = super().drift(state)
            if 4 <= state.step < 7 and state.buffers["count"] != state.step:  # a prediction does not count
                return dp.Drift({n: g * math.nan for n, g in drift.grads.items()})
            return drift

    rounds: list[dp.Round] = []
    got = dp.solve(Fragile(optimizer("Adam")), 10, 8, tolerance, callback=rounds.append)
    assert all(p.isfinite().all() for done in rounds for p in done.state.params.values())
    assert rounds[0].stride <= 4 and rounds[0].errors[4:] == [math.inf] * 4
    if tolerance == 0:
        assert equal(got.state, dp.solve_sequential(Toy(optimizer("Adam")), 10).state)


def test_large_finite_gradients_are_finite() -> None:
    """A sum of squares that overflows float32 is no NaN."""
    process = Toy(optimizer("Adam"), torch.float32, spoil=lambda step, grad: grad * 1e25)
    expected = dp.solve_sequential(process, 6)
    assert equal(dp.solve(process, 6, 3, 0).state, expected.state)


def test_the_step_rule_has_the_units_it_says() -> None:
    """Root mean square over a group, by its learning rate; the worst group counts."""
    params = {"a": torch.zeros(4), "b": torch.zeros(2, 3), "c": torch.zeros(0)}
    guess = dp.State(params, {}, {}, 1)
    rolled = dp.State(
        {"a": torch.full((4,), 0.3), "b": torch.full((2, 3), -0.1), "c": torch.zeros(0)}, {}, {}, 1
    )
    base = dp.State(params, {}, {}, 0)

    def error(groups: dict[str, dp.Group]) -> float:
        return Step(1.0).error(measure([base, guess], [rolled], [groups])[0], groups)

    # 1e-6: one rounding in float32
    whole = math.sqrt((4 * 0.09 + 6 * 0.01) / 10)
    assert error({"one": dp.Group(("a", "b", "c"), 0.1)}) == pytest.approx(whole / 0.1, rel=1e-6)
    two = {"a": dp.Group(("a",), 0.1), "b": dp.Group(("b", "c"), 0.01)}
    assert error(two) == pytest.approx(10, rel=1e-6)
    assert error({"a": dp.Group(("a",), 0.0), "b": dp.Group(("b", "c"), 1.0)}) == math.inf
    assert error(
        {"a": dp.Group(("a",), math.inf), "b": dp.Group(("b",), 1.0), "c": dp.Group(("c",), 0.0)}
    ) == (pytest.approx(0.1, rel=1e-6))
    assert error({"moved": dp.Group(("a", "b", "c"), None)}) == pytest.approx(1, rel=1e-6)
    assert error({"none": dp.Group((), 0.0)}) == 0


def test_nan_is_never_small() -> None:
    groups = {"all": dp.Group(("a",), 0.1)}
    norms = Norms({"a": math.nan}, {}, {"a": 3}, False)
    assert Step(1.0).error(norms, groups) == math.inf
    paper = Paper(30.0)
    assert paper.error(norms, groups) == math.inf
    # an infinite error would lift the threshold for good
    assert paper.learn(30.0, [math.inf, math.inf, 10.0]) == pytest.approx(28)


def test_acceptance_is_pure() -> None:
    """Strides, errors and the next threshold follow from norms and state alone, and nothing else changes."""
    groups = [{"all": dp.Group(("a",), 1.0)}] * 4
    # the guesses of slots 1, 2 and 3 are off by 0.5, 2 and 0.1 root mean square; behind the window there is none
    norms = [Norms({"a": 4 * off**2}, {}, {"a": 4}, False) for off in (0.5, 2.0, 0.1)]
    norms.append(Norms(None, {}, {}, False))
    for _ in range(2):
        stride, errors, state = accept(Step(1.0), norms, groups, None)
        assert (stride, state) == (2, None) and errors == pytest.approx([0, 0.5, 2.0, 0.1])
    assert accept(Step(1.0), norms[:2], groups, None) == (2, [0, 0.5, math.inf, math.inf], None)
    assert accept(Step(3.0), norms, groups, None)[0] == 4
    for _ in range(2):
        stride, errors, threshold = accept(Paper(1e6, decay=0.5), norms, groups, 1e6)
        assert errors == pytest.approx([0, 0.25e6, 4e6, 0.01e6]) and stride == 2
        assert threshold == pytest.approx(0.5e6 + 0.5 * 0.25e6)


def test_a_drift_that_is_not_finite_reaches_no_update() -> None:
    """Updates may draw from what drifts bring, which a NaN would break."""

    class Draws(Toy):
        def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
            torch.multinomial(next(iter(drift.grads.values())).abs().flatten() + 1e-9, 1)
            return super().update(state, drift)

    broken = Draws(optimizer("Adam"), spoil=lambda step, grad: grad * (math.nan if step == 5 else 1))
    for evaluator in ("serial", "distributed"):
        with pytest.raises(NonFiniteDrift, match="step 5"):
            dp.solve(broken, 10, 8, evaluator=evaluator)
    with pytest.raises(NonFiniteDrift, match="step 5"):
        dp.solve_sequential(broken, 10)


def test_a_process_without_groups_or_predict_runs() -> None:
    class Bare:
        boundaries = ()

        def __init__(self) -> None:
            toy = Toy(optimizer("SGD"))
            self.init, self.drift, self.update = toy.init, toy.drift, toy.update

    got = dp.solve(Bare(), 30, 8, 0.1)
    assert got.state.step == 30 and got.stats.num_rounds < 30


def test_a_subclass_inherits_what_a_process_may_leave_out() -> None:
    class Halving(dp.Process):
        def init(self) -> dp.State:
            return dp.State({"x": torch.ones(3)}, {}, {}, 0)

        def drift(self, state: dp.State) -> dp.Drift:
            return dp.Drift(dict(state.params))

        def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
            return dp.State({"x": state.params["x"] - drift.grads["x"] / 2}, {}, {}, state.step + 1)

    process = Halving()
    assert not process.fused
    expected = dp.solve_sequential(process, 12)
    assert equal(dp.solve(process, 12, 4, 0).state, expected.state)
    assert dp.solve(process, 12, 4, 2.0).stats.num_rounds < 12
    with pytest.raises(ValueError, match="got Halving without elementwise"):
        dp.solve(process, 12, evaluator=dp.evaluate.distributed(layout="sharded"))


def test_evaluators_are_values() -> None:
    """What a run learns of its memory is no business of the next."""
    sizes: list[int] = []

    class Small(Toy):
        def drift_window(self, states: list[dp.State]) -> list[dp.Drift]:
            sizes.append(len(states))
            if len(states) > 3:
                raise torch.OutOfMemoryError
            return [self.drift(state) for state in states]

    assert dp.evaluate.batched() == dp.evaluate.batched()
    evaluator, process = dp.evaluate.batched(), Small(optimizer("Adam"))
    for _ in range(2):
        with pytest.warns(UserWarning, match="do not fit in memory"):
            dp.solve(process, 20, 8, evaluator=evaluator)
        assert sizes[0] == 8
        sizes.clear()


def test_batched_is_the_default_where_there_is_drift_window() -> None:
    sizes: list[int] = []

    class Batched(Growing):
        def drift_window(self, states: list[dp.State]) -> list[dp.Drift]:
            sizes.append(len(states))
            return [self.drift(state) for state in states]

    process = Batched(optimizer("Adam"))
    dp.solve(process, 20, 8)
    assert max(sizes) == 8
    sizes.clear()
    dp.solve(process, 20, 8, evaluator=dp.evaluate.batched(sub_batch=3))
    assert max(sizes) == 3
    sizes.clear()
    dp.solve(process, 20, 8, tolerance=0)
    dp.solve(process, 20, 1)
    assert not sizes


TOY = Toy(optimizer("SGD"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dp.solve(TOY, 5, 0), "window must be >= 1 or auto, got 0; use 1 to run sequentially"),
        (lambda: dp.solve(TOY, 5, 2.5), "window must be >= 1 or auto, got 2.5"),
        (lambda: dp.solve(TOY, -1), "num_steps must be an integer >= 0, got -1"),
        (lambda: dp.solve_sequential(TOY, 1.5), "num_steps must be an integer >= 0, got 1.5"),
        (lambda: dp.solve(TOY, 5, tolerance=-1), "tolerance must be >= 0, got -1"),
        (lambda: dp.solve(TOY, 5, tolerance=math.nan), "tolerance must be >= 0, got nan"),
        (lambda: dp.solve(TOY, 5, error_rule="exact"), "error_rule must be one of step, paper, got 'exact'"),
        (
            lambda: dp.solve(TOY, 5, tolerance=0, error_rule="paper"),
            "tolerance must be > 0 with error_rule paper",
        ),
        (lambda: dp.solve(TOY, 5, error_rule="paper", threshold=-1), "threshold must be >= 0, got -1"),
        (lambda: dp.solve(TOY, 5, error_rule="paper", decay=2), "decay must lie in [0, 1], got 2"),
        (
            lambda: dp.solve(TOY, 5, error_rule="paper", aggregate="max"),
            "aggregate must be one of median, mean",
        ),
        (
            lambda: dp.solve(TOY, 5, predictor="none"),
            "predictor must be one of momentum, hold, restart, got 'none'",
        ),
        (
            lambda: dp.solve(TOY, 5, evaluator="gpu"),
            "evaluator must be one of batched, serial, distributed, got 'gpu'",
        ),
        (lambda: dp.solve(TOY, 5, evaluator="batched"), "batched must have a process with drift_window"),
        (lambda: dp.evaluate.batched(sub_batch=0), "sub_batch must be >= 1, got 0"),
        (
            lambda: dp.solve(TOY, 5, 5, evaluator=lambda p, s: []),
            "must return a drift for each of 5 states, got 0",
        ),
        (lambda: dp.solve(TOY, 5, state=dp.State({}, {}, {}, 9)), "must be >= the state's step 9, got 5"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(call: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()  # type: ignore[operator]
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_interrupt_leaves_the_last_accepted_state() -> None:
    states: list[dp.State] = []

    def interrupt(done: dp.Round) -> None:
        states.append(done.state)
        if len(states) == 3:
            raise KeyboardInterrupt

    process = Toy(optimizer("Adam"))
    with pytest.raises(KeyboardInterrupt):
        dp.solve(process, 30, 4, 0, callback=interrupt)
    rest = dp.solve(process, 30, 4, 0, state=states[-1])
    assert equal(rest.state, dp.solve_sequential(process, 30).state)
