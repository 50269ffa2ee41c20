"""The first guess of a state that no drift has reached yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dreamprop.process import Process
from dreamprop.state import State


def momentum(process: Process, state: State) -> State:
    """One step along the optimiser's momentum, where the process knows how; else a copy."""
    guess = process.predict(state)
    if guess.step != state.step + 1:
        raise ValueError(f"predict must return step {state.step + 1}, got {guess.step}; add one to the step")
    return guess


def hold(process: Process, state: State) -> State:
    """The state itself, a step later: the guess of arXiv:2311.17082."""
    return replace(state, step=state.step + 1)


PREDICTORS: dict[str, Callable[[Process, State], State]] = {
    "momentum": momentum,
    "hold": hold,
    "restart": momentum,
    "anderson": momentum,
}
"""Guesses by name. A round that accepts a part of its window leaves rolled-out states behind it; ``restart`` forgets
them and guesses all of the next window anew, which is better where predictions are nearly right: without noise;
``anderson`` mixes them with those of the round before."""
