"""Which steps are evaluated together.

A window is the accepted state that enters step b, the base, and guesses of those that enter b+1, b+2, ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from dreamprop.solver.buffers import follow
from dreamprop.state import State


@dataclass(frozen=True, eq=False)
class Window:
    """What a round leaves to the next: all that a run needs to go on as if it had never stopped."""

    states: tuple[State, ...]
    """The accepted state, then the rolled-out states that the next round begins from; of these only the last has
    moments."""
    threshold: float | None = None
    """Where the error rule's threshold has come to, if it moves."""
    trend: Mapping[str, Tensor] = field(default_factory=dict)
    """What integer buffers are expected to move by each step, by name."""


def end_of(base: int, size: int, num_steps: int, boundaries: Collection[int]) -> int:
    """The step a window stops before: at most ``size`` steps on, crossing neither a boundary nor the end.

    The state that enters a boundary has other shapes, so it cannot be guessed before the update in front of
    it was accepted.

    Args:
        base: step of the accepted state.
        size: most steps of a window.
        num_steps: step the run arrives at.
        boundaries: steps at which shapes change.

    Returns:
        e in (base, base + size]; the window evaluates the drifts of steps base..e-1.
    """
    last = min(base + size, num_steps)
    return next((step for step in range(base + 1, last) if step in boundaries), last)


def fill(
    known: Sequence[State], count: int, predict: Callable[[State], State], trend: Mapping[str, Tensor]
) -> list[State]:
    """The states of a window: those known from the last round, then fresh guesses, each from the one before.

    Args:
        known: the base, then rolled-out states that follow it.
        count: states of the window.
        predict: guesses the next state.
        trend: what integer buffers are expected to move by each step.

    Returns:
        [count] the base as it is, and guesses without moments, which a drift does not read.
    """
    states = list(known[:count])
    while len(states) < count:
        states.append(follow(predict(states[-1]), states[-1], trend))
    return [states[0]] + [replace(state, moments={}) for state in states[1:]]


def advance(rolled: Sequence[State], stride: int, end: int) -> list[State]:
    """The next base and what is known after it.

    Args:
        rolled: [F] rolled-out states, the i-th entering step b+i+1.
        stride: how many steps were accepted, at least 1.
        end: of how many slots the rolled-out states are worth keeping.

    Returns:
        The accepted state, then rolled-out states of steps that were not accepted.
    """
    return list(rolled[stride - 1 : end])
