"""A chain of four tensors on a device, cheap to evaluate, with a count of steps that may stay on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

import dreamprop as dp
from dreamprop.optim import Adam, ParamGroup

NAMES = ("a", "b", "c", "d")


class Chain:
    """``grad = sin(p)``, with a running value and a count as buffers.

    Args:
        device: of everything, but perhaps of the count.
        count: elements of all parameters.
        host: whether the count stays on the CPU, as a module's buffers may.
    """

    boundaries: Sequence[int] = ()

    def __init__(self, device: torch.device, count: int = 1 << 12, host: bool = False) -> None:
        self.device, self.count = device, count
        self.place = torch.device("cpu") if host else device
        self.optimizer = Adam([ParamGroup(NAMES, 1e-2)])

    def init(self) -> dp.State:
        make = torch.Generator().manual_seed(0)
        params = {n: torch.randn(self.count // len(NAMES), generator=make).to(self.device) for n in NAMES}
        steps = torch.zeros((), dtype=torch.int64, device=self.place)
        buffers = {"mean": torch.zeros((), device=self.device), "steps": steps}
        return dp.State(params, self.optimizer.init(params), buffers, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        aux = {"mean": state.params["a"].mean(), "steps": state.buffers["steps"] + 1}
        return dp.Drift({n: p.sin() for n, p in state.params.items()}, aux)

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        return dp.State(params, moments, dict(drift.aux), state.step + 1)

    def predict(self, state: dp.State) -> dp.State:
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return dp.State(params, moments, state.buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, dp.Group]:
        return self.optimizer.groups(step)

    def elementwise(self, step: int) -> bool:
        return True
