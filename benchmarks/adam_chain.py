"""A chain whose update is Adam's and nothing else: what benchmarks of the engine take drifts of their own for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

import dreamprop as dp
from dreamprop.optim import Adam, ParamGroup


class AdamChain(dp.Process):
    """A subclass writes `drift`.

    Args:
        params: at step 0.
        lr: learning rate.
    """

    def __init__(self, params: dict[str, Tensor], lr: float) -> None:
        self.params = params
        self.optimizer = Adam([ParamGroup(tuple(params), lr)])

    def init(self) -> dp.State:
        return dp.State(self.params, self.optimizer.init(self.params), {}, 0)

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        return replace(state, params=params, moments=moments, step=state.step + 1)

    def predict(self, state: dp.State) -> dp.State:
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return replace(state, params=params, moments=moments, step=state.step + 1)

    def groups(self, step: int) -> Mapping[str, dp.Group]:
        return self.optimizer.groups(step)

    def elementwise(self, step: int) -> bool:
        return True
