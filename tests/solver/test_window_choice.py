"""A window that chooses itself: never much slower than plain steps, near the best, and the same again by its log."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

import dreamprop as dp
from dreamprop.solver.timing import History, Timed
from dreamprop.solver.window_choice import Decision, Windows, choose
from dreamprop.state import equal
from tests.solver.chains import Toy, optimizer

CLOCKS: dict[str, Callable[[int], float]] = {
    "an idle device": lambda w: 1.0,
    "a saturated device": lambda w: 1.0 if w == 1 else 1.05 * w,
    "two cores": lambda w: 0.5 + 0.5 * w,
    "a device that fills up": lambda w: 1 + 0.12 * max(w - 8, 0),
    "an engine that costs more than drifts": lambda w: 1.0 if w == 1 else 0.5 + 1.3 * w,
}
"""Seconds of a round by its window, in those of a plain step."""
FIXED = (1, 2, 4, 8, 16, 32, 64)


def simulate(
    clock: Callable[[int], float], reach: int, steps: int, window: int | None = None, noise: float = 0.0
) -> tuple[float, list[Decision]]:
    """Seconds of a run whose rounds accept about `reach` steps, fewer in its first eighth; and its decisions."""
    draw, history, decisions = random.Random(reach), History(), [Decision(0, window)] if window else []
    step, seconds = 0, 0.0
    while step < steps:
        if not decisions or (decisions[-1].until is not None and decisions[-1].until <= step):
            current = decisions[-1].window if decisions else 1
            decisions.append(choose(history, current, step, steps, ranks=1, most=10**6))
        width = decisions[-1].window
        size = min(width, steps - step)
        took = clock(size) * (1 + noise * draw.gauss(0, 1))
        far = reach * min(0.4 + 4.8 * step / steps, 1) * (1 + 2 * noise * draw.gauss(0, 1))
        stride = max(1, min(size, round(far)))
        step, seconds = step + stride, seconds + took
        if size == width:
            history.add(Timed(width, took, stride))
    return seconds, decisions


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("steps", [80, 300, 2000])
@pytest.mark.parametrize("reach", [2, 8, 14, 60])
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_it_is_never_3_percent_slower_than_plain_steps(
    clock: Callable[[int], float], reach: int, steps: int, noise: float
) -> None:
    assert simulate(clock, reach, steps, noise=noise)[0] <= 1.03 * simulate(clock, reach, steps, 1)[0]


@pytest.mark.parametrize("reach", [4, 8, 14])
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_it_comes_near_the_best_window(clock: Callable[[int], float], reach: int) -> None:
    best = min(simulate(clock, reach, 5000, window)[0] for window in FIXED)
    assert simulate(clock, reach, 5000)[0] <= 1.05 * best


def test_it_takes_plain_steps_where_they_are_the_quickest() -> None:
    _, decisions = simulate(CLOCKS["a saturated device"], 14, 1000)
    assert decisions[-1].window == 1 and decisions[-1].until is None
    assert "a plain step takes" in decisions[-1].reason


def test_windows_are_whole_shares_of_the_processes_and_fit_in_memory() -> None:
    def widths(ranks: int, most: int) -> set[int]:
        history, found = History(), set()
        for step in range(0, 4000, 8):
            decision = choose(history, 1, step, 4000, ranks, most)
            found.add(decision.window)
            history.add(Timed(decision.window, 1.0, decision.window))
        return found

    assert widths(3, 10**6) - {1} <= {3 * 2**k for k in range(7)} and max(widths(3, 10**6)) == 192
    assert max(widths(1, 5)) == 4


def toy() -> Toy:
    return Toy(optimizer("Adam"), noise=0.05)


def test_decisions_are_told_before_they_are_used_and_listed() -> None:
    told: list[tuple[int, Decision]] = []
    process = toy()
    windows = Windows(decided=lambda decision: told.append((len(process.evaluated), decision)))
    stats = dp.solve(process, 200, windows, audit=0).stats
    assert stats.decisions == [decision for _, decision in told] and len(stats.windows) == stats.num_rounds
    assert told[0][0] == 0
    starts = [sum(stats.strides[:i]) for i in range(stats.num_rounds)]
    for (evaluated, decision), following in zip(told, [*(d for _, d in told[1:]), None], strict=True):
        first = starts.index(decision.step)
        last = starts.index(following.step) if following else len(starts)
        assert set(stats.windows[first:last]) == {decision.window}
        assert evaluated == sum(min(w, 200 - s) for w, s in zip(stats.windows[:first], starts, strict=False))


def test_decisions_that_are_followed_give_the_same_bits() -> None:
    first = dp.solve(toy(), 200)
    again = dp.solve(toy(), 200, first.stats.decisions)
    assert equal(first.state, again.state)
    assert first.stats.strides == again.stats.strides and first.stats.windows == again.stats.windows


def test_a_part_of_a_run_goes_on_by_the_decisions_of_the_first() -> None:
    rounds: list[dp.Round] = []
    whole = dp.solve(toy(), 200, callback=rounds.append)
    for round in rounds[1::4]:
        rest = dp.solve(toy(), 200, Windows(whole.stats.decisions), state=round.window)
        assert equal(rest.state, whole.state)


def test_what_was_not_decided_yet_is_chosen() -> None:
    whole = dp.solve(toy(), 400)
    begun = [d for d in whole.stats.decisions if d.step < 50]
    windows = Windows(begun)
    dp.solve(toy(), 400, windows)
    assert windows.decisions[: len(begun)] == begun and windows.decisions[-1].until is None


def test_decisions_survive_json() -> None:
    decision = Decision(3, 8, 40, "tried", {1: 0.1, 8: 1 / 3}, 2)
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "wide", None, [], [8]])
def test_a_window_is_a_number_or_auto(window: object) -> None:
    with pytest.raises(ValueError, match=r"window must be >= 1 or auto, got .*; use 1 to run sequentially"):
        dp.solve(toy(), 5, window)  # type: ignore[arg-type]
