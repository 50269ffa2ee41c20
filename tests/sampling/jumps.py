"""Small chains with a coarse step, which is the fine one over more time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.rng import generator
from tests.solver.chains import Toy, optimizer


@dataclass
class Ode:
    """``dz/dt = f(z, t)`` over [0, 1] by Euler's steps; the coarse step is one of his as well."""

    num_steps: int
    dtype: torch.dtype = torch.float64
    boundaries: Sequence[int] = ()

    def init(self) -> dp.State:
        params = {n: torch.randn(6, 2, generator=generator(0, 0, n), dtype=self.dtype) for n in ("a", "b")}
        return dp.State(params, {}, {}, 0)

    def slope(self, name: str, z: Tensor, t: float) -> Tensor:
        """They turn, shrink and are pulled about."""
        turned = torch.stack([-z[:, 1], z[:, 0]], -1)
        return (3.0 if name == "a" else 1.0) * turned - 0.7 * z + 0.2 * (5 * z + t).sin()

    def drift(self, state: dp.State) -> dp.Drift:
        t = state.step / self.num_steps
        return dp.Drift({name: self.slope(name, z, t) for name, z in state.params.items()})

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        return self.jump(state, drift, state.step + 1)

    def jump(self, state: dp.State, drift: dp.Drift, step: int) -> dp.State:
        dt = (step - state.step) / self.num_steps
        return replace(state, params={n: z + dt * drift.grads[n] for n, z in state.params.items()}, step=step)


class Gaussian(Ode):
    """The probability flow of a Gaussian with standard deviations 0.2 and 0.5 around (1, -2), by DDIM
    (arXiv:2010.02502) over the cosine schedule (arXiv:2102.09672)."""

    mean, scale = torch.tensor([1.0, -2.0]), torch.tensor([0.2, 0.5])

    def level(self, step: int) -> float:
        return math.cos((1 - step / self.num_steps) * 0.98 * math.pi / 2) ** 2

    def drift(self, state: dp.State) -> dp.Drift:
        level = self.level(state.step)
        mean, scale = self.mean.to(self.dtype), self.scale.to(self.dtype)
        variance = level * scale**2 + 1 - level
        return dp.Drift(
            {n: (1 - level) ** 0.5 * (z - level**0.5 * mean) / variance for n, z in state.params.items()}
        )

    def jump(self, state: dp.State, drift: dp.Drift, step: int) -> dp.State:
        now, then = self.level(state.step), self.level(step)
        params = {
            n: then**0.5 * (z - (1 - now) ** 0.5 * drift.grads[n]) / now**0.5
            + (1 - then) ** 0.5 * drift.grads[n]
            for n, z in state.params.items()
        }
        return replace(state, params=params, step=step)


class Momentum(Toy):
    """Noise by step, several parameters, the moments of Adam, and a buffer; the coarse step holds the gradient."""

    def jump(self, state: dp.State, drift: dp.Drift, step: int) -> dp.State:
        while state.step < step:
            state = self.update(state, drift)
        return state


def momentum(dtype: torch.dtype = torch.float32) -> Momentum:
    return Momentum(optimizer("Adam"), dtype)


CHAINS = {"ode": lambda: Ode(20, torch.float32), "gaussian": lambda: Gaussian(20), "momentum": momentum}
