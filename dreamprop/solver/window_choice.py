"""How wide the rounds of a run are: a number, decisions to be followed, or what turns out to be quickest.

Decisions are taken from timings, which no two runs share, so each is told before it is used: a run that follows the
decisions of another takes the same rounds, bit for bit, on any number of processes. Nothing is evaluated for a
measurement alone: a window is tried on steps that count, and only while what it may cost at most stays within a small
share of the sequential run's time, or within what was gained before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import ceil
from numbers import Integral
from typing import Any

from dreamprop.evaluate.evaluation import Evaluation
from dreamprop.solver.timing import History, Timed
from dreamprop.state import State
from dreamprop.utils.memory import available

AUTO = "auto"
LOSS = 0.02
"""Share of the sequential run's time that trying windows may cost at most."""
WORTH = 0.97
"""Another window is taken where a step needs less than so much of the time."""
CLEAR = 0.8
"""A window whose steps need less than so much of a plain step's time is quicker, however noisy clocks are."""
GROWTH = 2
"""By how much a window that is tried may be wider than what was accepted at once."""
FIRST = 8
"""The widest window that may be tried first; of each process, where there are several."""
WIDEST = 64
"""The widest window that is tried, of each process."""
MARKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Shares of a run after which the window is chosen again: what is accepted changes on the way."""


@dataclass(frozen=True)
class Decision:
    """The window of the rounds that begin in a range of steps."""

    step: int
    """The first step."""
    window: int
    """How many steps the rounds evaluate."""
    until: int | None = None
    """The step before which they begin; none: the end of the run."""
    reason: str = "given"
    """Why it was chosen."""
    seconds: Mapping[int, float] = field(default_factory=dict)
    """What rounds were known to take, by window."""
    ranks: int = 1
    """How many processes shared them."""

    def to_json(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Decision:
        """From what JSON has kept."""
        return cls(**{**row, "seconds": {int(w): float(s) for w, s in row["seconds"].items()}})


class Windows:
    """The window of each round of a run: what was decided is followed, and what was not is chosen.

    Args:
        decisions: taken already, in order of their steps; the last one may have no end.
        decided: called with each new decision before it is used.
    """

    def __init__(
        self, decisions: Sequence[Decision] = (), decided: Callable[[Decision], object] | None = None
    ) -> None:
        self.decisions = list(decisions)
        """Taken so far, in order of their steps."""
        self._decided = decided
        self._history: History | None = None

    def of(self, base: State, num_steps: int, evaluate: Evaluation) -> int:
        """The window of the next round; every process asks for it.

        Args:
            base: the accepted state, as this process keeps it.
            num_steps: the step that the run arrives at.
            evaluate: of the run.
        """
        last = self.decisions[-1] if self.decisions else None
        if self._history is None:
            self._history = History(last.seconds if last and last.ranks == evaluate.size else None)
        if last is None or (last.until is not None and last.until <= base.step):
            most = min(evaluate.tell(fitting(base)))
            current = last.window if last else 1
            own = choose(self._history, current, base.step, num_steps, evaluate.size, most)
            self._append(Decision.from_json(evaluate.tell(own.to_json())[0]))
        return next(
            d for d in reversed(self.decisions) if d.step <= base.step or d is self.decisions[0]
        ).window

    def learn(self, round: Timed) -> None:
        """Take what a round needed and accepted, where there is still something to decide."""
        if self._history is not None and self.decisions[-1].until is not None:
            self._history.add(round)

    def _append(self, decision: Decision) -> None:
        if self._decided is not None:
            self._decided(decision)
        self.decisions.append(decision)


def as_windows(window: int | str | Sequence[Decision] | Windows) -> Windows:
    """Those of a run that is asked for a number, for `auto`, or to follow decisions.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(window, Windows):
        return window
    if isinstance(window, Sequence) and window and all(isinstance(d, Decision) for d in window):
        return Windows([d for d in window if isinstance(d, Decision)])
    if window == AUTO:
        return Windows()
    if not isinstance(window, Integral) or isinstance(window, bool) or window < 1:
        raise ValueError(f"window must be >= 1 or {AUTO}, got {window!r}; use 1 to run sequentially")
    return Windows([Decision(0, int(window))])


def choose(history: History, current: int, step: int, num_steps: int, ranks: int, most: int) -> Decision:
    """The next decision.

    Args:
        history: what rounds took.
        current: the window so far.
        step: the next round begins at.
        num_steps: the run arrives at.
        ranks: processes that share a window.
        most: the widest window that fits.
    """
    if not history.measured(1):
        return Decision(step, 1, step + 1, "a plain step is timed", ranks=ranks)
    known = history.known()
    decide = partial(Decision, step, seconds=dict(known.seconds), ranks=ranks)
    plain, reach = known.seconds[1], history.reach()
    credit = LOSS * num_steps * plain - history.lost(plain)
    grown = GROWTH * reach if reach else FIRST * ranks
    seen = max((round.window for round in known.recent), default=1)

    def certain(window: int) -> bool:
        return history.measured(window) and window <= seen

    def open_to(window: int) -> bool:
        clear = certain(window) and (credit > 0 or known.seconds_per_step(window) < CLEAR * plain)
        return clear or (window <= grown and known.at_most(window) - plain <= credit)

    most = min(most, WIDEST * ranks, max(num_steps - step, 1))
    wide = [ranks * 2**k for k in range(ranks == 1, 7) if ranks * 2**k <= most]
    choices = [1, *filter(open_to, wide)]
    best = min(choices, key=known.seconds_per_step)
    if current in choices and known.seconds_per_step(best) > WORTH * known.seconds_per_step(current):
        best = current
    each = known.seconds_per_step(best)
    if best > 1 and not certain(best):
        return decide(best, step + 1, f"a window of {best} is tried")
    if best > 1 and each > CLEAR * plain and not history.fresh(1):
        return decide(1, step + 1, "a plain step is timed again")
    until = next((ceil(m * num_steps) for m in MARKS if m * num_steps > step), None)
    history.settle()
    return decide(best, until, f"{each:.3g} s a step, where a plain step takes {plain:.3g} s")


def plain_seconds(decisions: Sequence[Decision]) -> float | None:
    """What a plain step takes, as it was last known; None where none was timed."""
    return next((d.seconds[1] for d in reversed(decisions) if 1 in d.seconds), None)


def fitting(state: State) -> int:
    """The widest window whose states and gradients take half of the memory that is left; at least 1.

    While W steps are rolled out, W guesses, W gradients and W states with their moments are alive.
    """
    params = sum(p.numel() * p.element_size() for p in state.params.values())
    moments = sum(m.numel() * m.element_size() for m in state.moments.values())
    device = next(iter(state.params.values())).device
    return max(available(device) // 2 // max(3 * params + moments, 1), 1)
