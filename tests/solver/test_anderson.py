"""Mixing of two rounds: against the formula written out, and by what it saves."""

from __future__ import annotations

import pytest
import torch

import dreamprop as dp
from dreamprop.process import Group
from dreamprop.rng import generator
from dreamprop.solver.anderson import Anderson
from dreamprop.solver.window import Window
from dreamprop.state import State, equal

GROUPS = [{"a": Group(("x",), 0.1), "b": Group(("y",), 0.02), "c": Group(("z",), float("inf"))}] * 7


def states(stream: str, begin: int, count: int) -> list[State]:
    """States of random numbers in three groups."""
    found = []
    for step in range(begin, begin + count):
        g = generator(0, step, stream)
        found.append(State({n: torch.randn(3, generator=g).double() for n in "xyz"}, {}, {}, step))
    return found


def test_it_is_the_formula() -> None:
    """A first round from step 0 with a window of 7 accepts 2 steps, a second one of 7 accepts 1."""
    mix = Anderson()
    x0, f0, x1, f1 = states("x0", 0, 7), states("f0", 1, 7), states("x1", 2, 7), states("f1", 3, 7)
    assert mix(f0[1:], x0, f0, GROUPS) == f0[1:], "nothing to mix with"
    got = mix(f1, x1, f1, GROUPS)
    assert got[0] is f1[0] and [z.step for z in got] == [z.step for z in f1]
    product = square = torch.zeros(())
    for step in (4, 5, 6):  # those that both rounds had guessed, behind the accepted one
        (x, f), (x_before, f_before) = ((xs[step - xs[0].step].params, fs[step - fs[0].step].params)
                                        for xs, fs in ((x1, f1), (x0, f0)))  # fmt: skip
        for name, unit in {"x": 0.1, "y": 0.02}.items():
            r = (f[name] - x[name]) / unit
            dr = r - (f_before[name] - x_before[name]) / unit
            product, square = product + dr @ r, square + dr @ dr
        for name in "xyz":
            expected = f[name] - product / square * (f[name] - f_before[name])
            torch.testing.assert_close(got[step - 3].params[name], expected)
    assert all(got[step - 3] is f1[step - 3] for step in (7, 8, 9))


def test_a_linear_chain_without_noise_is_solved_at_once() -> None:
    """The residual of a linear map with one eigenvalue vanishes on the line through two rounds."""
    mix = Anderson()
    root, slope = torch.tensor([2.0]).double(), 0.7

    def pair(x: torch.Tensor) -> tuple[list[State], list[State]]:
        guess = [
            State({"x": torch.zeros(1).double()}, {}, {}, 0),
            State({"x": x}, {}, {}, 1),
            State({"x": x}, {}, {}, 2),
        ]
        after = [State({"x": root + slope * (x - root)}, {}, {}, step) for step in (1, 2)]
        return guess, after

    groups = [{"a": Group(("x",), 0.1)}] * 2
    guess, rolled = pair(torch.tensor([0.0]).double())
    mix(rolled, guess, rolled, groups)
    guess, rolled = pair(torch.tensor([1.0]).double())
    torch.testing.assert_close(mix(rolled, guess, rolled, groups)[1].params["x"], root)


class Coupled(dp.Process):
    """Gradient descent with noise, whose steps hang together strongly."""

    def init(self) -> State:
        return State({"x": torch.randn(50, generator=generator(0, 0, "start"))}, {}, {}, 0)

    def drift(self, state: State) -> dp.Drift:
        noise = torch.randn(50, generator=generator(0, state.step, "noise"))
        return dp.Drift({"x": 3 * torch.sin(state.params["x"]) + noise})

    def update(self, state: State, drift: dp.Drift) -> State:
        return State({"x": state.params["x"] - 0.1 * drift.grads["x"]}, {}, {}, state.step + 1)

    def groups(self, step: int) -> dict[str, Group]:
        return {"x": Group(("x",), 0.1)}


def test_it_takes_fewer_rounds_to_the_same_place() -> None:
    plain = dp.solve_sequential(Coupled(), 60)
    rounds = {}
    for predictor in ("hold", "anderson"):
        found = dp.solve(Coupled(), 60, 12, 0.05, predictor=predictor)
        torch.testing.assert_close(found.state.params["x"], plain.state.params["x"], rtol=0, atol=0.01)
        rounds[predictor] = found.stats.num_rounds
    assert rounds["anderson"] < 0.8 * rounds["hold"]
    assert equal(dp.solve(Coupled(), 60, 12, 0.0, predictor="anderson").state, plain.state)


def test_it_must_begin_from_a_state() -> None:
    windows: list[Window] = []
    dp.solve(Coupled(), 20, 8, 0.05, callback=lambda done: windows.append(done.window))
    many = next(window for window in windows if len(window.states) > 1)
    with pytest.raises(
        ValueError, match="predictor anderson must begin from a state, got a window; use momentum"
    ):
        dp.solve(Coupled(), 20, 8, 0.05, predictor="anderson", state=many)
