"""What the loops report: a value for each round, and one at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral

from dreamprop.process import Process
from dreamprop.state import State


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
    state: State
    """The accepted state; nobody writes into it later."""
    drifts: int
    """Drifts that this round evaluated."""
    seconds: float
    """Wall-clock time of this round."""
    round: int
    """Index of this round, from 0."""


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
    wall_seconds: float = 0.0
    """Wall-clock time of the whole run, with the callbacks."""

    @property
    def speedup_rounds(self) -> float:
        """Steps a round; 1 is sequential."""
        return self.num_steps / self.num_rounds if self.num_rounds else 1.0

    @classmethod
    def begin(cls, step: int, num_steps: int) -> Stats:
        """Stats of a run from one step to another."""
        return cls(num_steps - step)

    def add(self, errors: list[float], stride: int, drifts: int) -> None:
        """Count one round."""
        self.num_rounds += 1
        self.num_drifts += drifts
        self.strides.append(stride)
        self.errors.append(errors)


@dataclass(frozen=True, eq=False)
class Solution:
    """The final state of a run and what it took."""

    state: State
    stats: Stats


def start(process: Process, num_steps: int, state: State | None) -> State:
    """The state a run begins at.

    Raises:
        ValueError: ``num_steps`` is not a count, or lies before the state.
    """
    if not isinstance(num_steps, Integral) or isinstance(num_steps, bool) or num_steps < 0:
        raise ValueError(f"num_steps must be an integer >= 0, got {num_steps!r}; give the step to arrive at")
    z = process.init() if state is None else state
    if z.step > num_steps:
        raise ValueError(
            f"num_steps must be >= the state's step {z.step}, got {num_steps}; give the step to arrive at"
        )
    return z
