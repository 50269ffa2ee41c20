"""A chain of integrator steps, each of which asks for one score: what is solved in sequence or in parallel.

State: ``params["x"]`` [n, ...], n particles or pictures; what a step remembers (a velocity, where a midpoint step
began) in ``moments`` under ``x/<name>``, which a score does not see. The drift of step t is the score at the state that
enters it, at the step's own time, so a window of W states is one call of the score on W n particles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dreamprop.process import Process
from dreamprop.rng import generator
from dreamprop.sampling.linear_sde import POSITION
from dreamprop.state import Drift, State

Score = Callable[[Tensor, Tensor], Tensor]
"""(x [N, ...], t [N]) to grad log p_t(x) [N, ...]; t is the Ornstein-Uhlenbeck time of each particle in float64."""
Values = dict[str, Tensor]
"""Position, velocity and what else a step remembers, by their names in a state."""
Draw = Callable[[str, int], Tensor]
"""(stream, offset) to standard normal noise like x, keyed by the step that lies so many before this one."""


class Step(Protocol):
    """One step: a score, and what is made of it."""

    @property
    def time(self) -> Tensor:
        """Where the score is evaluated: [] or, of each particle, [n]."""
        ...

    def update(self, z: Values, score: Tensor, draw: Draw) -> Values:
        """The values that enter the next step."""
        ...

    def predict(self, z: Values, draw: Draw) -> Values:
        """A guess of them without this step's score."""
        ...


class ScoreChain(Process):
    """Steps of an integrator on a score.

    Args:
        score: of the particles at their times.
        steps: one after another.
        x: [n, ...] where the particles start.
        seed: of the noise, which is keyed by (seed, step).
    """

    def __init__(self, score: Score, steps: Sequence[Step], x: Tensor, seed: int = 0) -> None:
        self.score, self.steps, self.seed = score, list(steps), seed
        self._x = x

    def init(self) -> State:
        """The particles where they start."""
        return State({POSITION: self._x}, {}, {}, 0)

    def drift(self, state: State) -> Drift:
        """The score at one state."""
        return self.drift_window([state])[0]

    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """The scores at W states in one call."""
        x = torch.cat([state.params[POSITION] for state in states])
        n = x.shape[0] // len(states)
        t = torch.cat([self.steps[state.step].time.expand(n) for state in states]).to(x.device)
        return [Drift({POSITION: s}) for s in self.score(x, t).split(n)]

    def update(self, state: State, drift: Drift) -> State:
        """A step of the integrator."""
        z = {**state.params, **state.moments}
        return self._next(state, self.steps[state.step].update(z, drift.grads[POSITION], self._draw(state)))

    def predict(self, state: State) -> State:
        """What the step itself knows of the next state; the state as it is where it knows nothing."""
        z = {**state.params, **state.moments}
        return self._next(state, self.steps[state.step].predict(z, self._draw(state)))

    def noise(self, step: int, stream: str, like: Tensor) -> Tensor:
        """Standard normal noise of a step and a stream, the same whoever asks and however often."""
        drawn = torch.randn(like.shape, generator=generator(self.seed, step, stream), dtype=like.dtype)
        return drawn.to(like.device)

    def _draw(self, state: State) -> Draw:
        return lambda stream, offset: self.noise(state.step - offset, stream, state.params[POSITION])

    @staticmethod
    def _next(state: State, z: Values) -> State:
        moments = {name: value for name, value in z.items() if name != POSITION}
        return State({POSITION: z[POSITION]}, moments, state.buffers, state.step + 1)


def gaussian(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Particles [n, ...] of the standard normal law, where a reversed process starts."""
    return torch.randn(*shape, generator=generator(seed, 0, "start"), dtype=dtype)
