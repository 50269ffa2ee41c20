"""Small chains for the tests: nonlinear, noisy, with and without buffers and changes of size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.optim import OPTIMIZERS, ParamGroup
from dreamprop.optim.resize import resize_moments, resize_params
from dreamprop.rng import generator

OPTIONS = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {},
    "AdamW": {"weight_decay": 0.02},
    "Adan": {"weight_decay": 0.02},
}


def optimizer(name: str, lr: float = 0.05, **options: object) -> dp.optim.Optimizer:
    """An optimiser over the parameters of ``Toy``: two groups, one with a schedule."""
    groups = [ParamGroup(("a", "b"), lr, name="main"), ParamGroup(("c",), [2, lr, lr / 2, 20], name="side")]
    made: dp.optim.Optimizer = OPTIMIZERS[name](groups, **{**OPTIONS[name], **options})
    return made


class Toy:
    """A coupled nonlinear chain whose noise is keyed by (seed, step), with a buffer that the drift reads."""

    boundaries: Sequence[int] = ()

    def __init__(
        self,
        optimizer: dp.optim.Optimizer,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        noise: float = 0.3,
        spoil: Callable[[int, Tensor], Tensor] = lambda step, grad: grad,
    ) -> None:
        self.optimizer, self.dtype, self.seed, self.noise, self.spoil = optimizer, dtype, seed, noise, spoil
        self.evaluated: list[int] = []

    def init(self) -> dp.State:
        g = generator(self.seed, 0, "init")
        shapes = {"a": (3, 4), "b": (5,), "c": ()}
        params = {
            n: torch.randn(s, generator=g, dtype=torch.float64).to(self.dtype) for n, s in shapes.items()
        }
        buffers = {"mean": torch.zeros((), dtype=self.dtype), "count": torch.zeros((), dtype=torch.int64)}
        return dp.State(params, self.optimizer.init(params), buffers, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        self.evaluated.append(state.step)
        g = generator(self.seed, state.step, "noise")
        total = sum(p.sum() for p in state.params.values())
        grads = {}
        for name, p in state.params.items():
            noise = torch.randn(p.shape, generator=g, dtype=torch.float64).to(self.dtype)
            grads[name] = (
                (p - 1).sin() + 0.1 * total.cos() + 0.05 * state.buffers["mean"] + self.noise * noise
            )
        grads["b"] = self.spoil(state.step, grads["b"])
        return dp.Drift(grads, {"total": total})

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        mean = 0.9 * state.buffers["mean"] + 0.1 * params["a"].mean()
        return dp.State(params, moments, {"mean": mean, "count": state.buffers["count"] + 1}, state.step + 1)

    def predict(self, state: dp.State) -> dp.State:
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return dp.State(params, moments, state.buffers, state.step + 1)

    def groups(self, step: int) -> dict[str, dp.Group]:
        return dict(self.optimizer.groups(step))


def shuffled(process: dp.Process, states: Sequence[dp.State]) -> list[dp.Drift]:
    """Evaluate the drifts of a window in an order that has nothing to do with the steps."""
    order = torch.randperm(len(states), generator=generator(1, states[0].step)).tolist()
    drifts = {i: process.drift(states[i]) for i in order}
    return [drifts[i] for i in range(len(states))]


class Growing(Toy):
    """The same chain with parameter ``b`` growing by splits and shrinking by pruning on a schedule."""

    boundaries: Sequence[int] = (4, 5, 13, 20)

    @property
    def schedule(self) -> dict[int, float]:
        """By boundary, the number of rows after it as a multiple of those before."""
        return {4: 2.0, 5: 1.4, 13: 0.5, 20: 3.0}

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        state = super().update(state, drift)
        factor = self.schedule.get(state.step)
        if factor is None:
            return state
        g = generator(self.seed, state.step, "split")
        old = state.params["b"].shape[0]
        index = torch.randint(old, (int(old * factor),), generator=g)
        fresh = torch.rand(index.shape, generator=g) < 0.5
        noise = torch.randn(index.shape, generator=g, dtype=torch.float64).to(self.dtype)
        values = {"b": state.params["b"][index] + 0.01 * noise}
        params = resize_params(state.params, ["b"], index, values, fresh)
        moments = resize_moments(state.moments, ["b"], index, fresh)
        return dp.State(params, moments, state.buffers, state.step)

    def predict(self, state: dp.State) -> dp.State:
        assert state.step + 1 not in self.boundaries, "a state behind a boundary cannot be guessed"
        return super().predict(state)
