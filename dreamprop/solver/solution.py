"""What the loops report: a value for each round, and one at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral

from torch import Tensor

from dreamprop.distributed.layout import REPLICATED, Layout
from dreamprop.process import Chain
from dreamprop.solver.window import Window
from dreamprop.state import State


class Laps:
    """A watch for the parts of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def __call__(self, part: str, exchange: float = 0.0) -> None:
        """What passed since the last call belongs to this part, but for what was spent on an exchange."""
        now = time.perf_counter()
        self.seconds[part] = now - self._began - exchange
        if exchange:
            self.seconds["exchange"] = exchange
        self._began = now

    @property
    def total(self) -> float:
        """Seconds of all parts together."""
        return sum(self.seconds.values())


@dataclass(frozen=True, eq=False)
class Round:
    """What one round did, for the callback."""

    step: int
    """The step accepted up to: the step of ``state``."""
    num_steps: int
    """The step the run arrives at."""
    stride: int
    """Steps that this round accepted."""
    errors: list[float]
    """Error of each slot, the worst group."""
    drifts: int
    """Drifts that this round evaluated."""
    seconds: float
    """Wall-clock time of this round."""
    round: int
    """Index of this round, from 0."""
    carried_states: Sequence[State]
    """The accepted state and those rolled out behind it, as this process keeps them; nobody writes into them later."""
    skipped: bool = False
    """Whether the step was passed over because its drift was not finite."""
    threshold: float | None = None
    """Where the error rule's threshold has come to, if it moves."""
    laps: dict[str, float] = field(default_factory=dict)
    """Wall-clock time by part of the round."""
    layout: Layout = REPLICATED
    """How states lie over processes."""
    trend: Mapping[str, Tensor] = field(default_factory=dict)
    """What integer buffers are expected to move by each step, by name."""
    audits: list[float] = field(default_factory=list)
    """Relative differences of drifts that were evaluated again at the state that was accepted, found in this round."""

    @cached_property
    def state(self) -> State:
        """The accepted state. In layout ``sharded`` all ranks must ask for it in the same rounds."""
        return self.layout.unshard(self.carried_states[0])

    @cached_property
    def window(self) -> Window:
        """What ``solve`` goes on from exactly. In layout ``sharded`` all ranks must ask for it in the same rounds."""
        last = len(self.carried_states) - 1
        ahead = [replace(s, moments={}) if i < last else s for i, s in enumerate(self.carried_states) if i]
        return Window(
            (self.state, *(self.layout.unshard(state) for state in ahead)), self.threshold, self.trend
        )


@dataclass
class Stats:
    """What a run took."""

    num_steps: int
    """Steps that were taken."""
    num_rounds: int = 0
    """Parallel evaluations one after another: the unit of parallel time."""
    num_drifts: int = 0
    """Drifts that were evaluated, accepted or not."""
    strides: list[int] = field(default_factory=list)
    """Steps accepted, by round."""
    errors: list[list[float]] = field(default_factory=list)
    """Error of each slot (the worst group), by round."""
    num_skipped: int = 0
    """Steps passed over because their drift was not finite."""
    in_a_row: int = 0
    """Of those, the last ones without another step between them."""
    audits: list[float] = field(default_factory=list)
    """For a sample of the accepted steps, how far the drift that was used is from that of the accepted state, relative
    to its norm."""
    wall_seconds: float = 0.0
    """Wall-clock time of the whole run, with the callbacks."""
    laps: dict[str, float] = field(default_factory=dict)
    """Wall-clock time by part of a round: ``guess``, ``drift``, ``exchange`` (waiting for other ranks included),
    ``rollout``, ``error`` and ``audit``. A GPU works behind the program's back: what it does shows where it is
    waited for."""

    @property
    def speedup_rounds(self) -> float:
        """Steps a round; 1 is sequential."""
        return self.num_steps / self.num_rounds if self.num_rounds else 1.0

    @classmethod
    def begin(cls, step: int, num_steps: int) -> Stats:
        """Stats of a run from one step to another."""
        return cls(num_steps - step)

    def add(self, round: Round) -> None:
        """Count one round."""
        self.num_rounds += 1
        self.num_drifts += round.drifts
        self.num_skipped += round.skipped
        self.in_a_row = self.in_a_row + 1 if round.skipped else 0
        self.audits += round.audits
        self.strides.append(round.stride)
        self.errors.append(round.errors)
        for part, seconds in round.laps.items():
            self.laps[part] = self.laps.get(part, 0.0) + seconds


@dataclass(frozen=True, eq=False)
class Solution:
    """The final state of a run and what it took."""

    state: State
    stats: Stats


def start(process: Chain, num_steps: int, state: State | Window | None) -> Window:
    """What a run begins from.

    Raises:
        ValueError: ``num_steps`` is not a count, or lies before the state.
    """
    if not isinstance(num_steps, Integral) or isinstance(num_steps, bool) or num_steps < 0:
        raise ValueError(f"num_steps must be an integer >= 0, got {num_steps!r}; give the step to arrive at")
    found = state if isinstance(state, Window) else Window((process.init() if state is None else state,))
    step = found.states[0].step
    if step > num_steps:
        raise ValueError(
            f"num_steps must be >= the state's step {step}, got {num_steps}; give the step to arrive at"
        )
    return found
