"""The first guess of a state that no drift has reached yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Predictor:
    """How the states of a window are guessed that no drift has reached, and what becomes of those that one has."""

    guess: Callable[[Process, State], State] = momentum
    """The next state after one."""
    anew: bool = False
    """Whether all of a window is guessed, what was rolled out behind the accepted state forgotten; else what is good of
    that are guesses of the next round."""
    mixes: bool = False
    """Whether what is rolled out is mixed with what the round before rolled out."""

    @property
    def copies(self) -> bool:
        """Whether guesses are copies: nothing that was rolled out is a worse guess."""
        return self.guess is hold


PREDICTORS = {
    "momentum": Predictor(),
    "hold": Predictor(hold),
    "restart": Predictor(anew=True),
    "anderson": Predictor(mixes=True),
}
"""By name. ``restart`` is better than ``momentum`` where predictions are nearly right, without noise."""

RESUMABLE = tuple(name for name, predictor in PREDICTORS.items() if not predictor.mixes)
"""Those with which a window is all that a run needs to go on: mixing remembers the round before."""
