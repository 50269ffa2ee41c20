"""The rule ``paper`` with the predictor ``hold`` is the published algorithm, arXiv:2311.17082, alg. 1."""

from __future__ import annotations

import copy
from statistics import median

import pytest
import torch

import dreamprop as dp
from dreamprop.rng import generator

SIZE, STEPS = 6, 60


def gradient(theta: torch.Tensor, step: int) -> torch.Tensor:
    noise = torch.randn(SIZE, generator=generator(0, step), dtype=torch.float64)
    return (theta - 1).sin() + 0.2 * noise


def published(window: int, threshold: float, decay: float, aggregate: str) -> tuple[list[int], torch.Tensor]:
    """The pseudocode, line by line, around ``torch.optim.Adam``; strides by round, and the result."""
    start = torch.linspace(-2, 2, SIZE, dtype=torch.float64)
    theta = [start.clone() for _ in range(STEPS + 1)]  # every slot begins as a copy of the start
    x = theta[0].clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    b, e, strides = 0, threshold, []
    while b < STEPS:
        width = min(window, STEPS - b)
        grads = [gradient(theta[b + i], b + i) for i in range(width)]
        errors, snapshots = [], []
        for i in range(width):
            x.grad = grads[i]
            optimizer.step()
            errors.append(((x.detach() - theta[b + i + 1]) ** 2).mean().item() * 1e6)
            theta[b + i + 1] = x.detach().clone()
            snapshots.append(copy.deepcopy(optimizer.state_dict()))
        j = next((i for i, error in enumerate(errors) if error > e), width - 1)
        last = theta[b + width]
        b += j + 1
        strides.append(j + 1)
        value = {"median": median(errors), "mean": sum(errors) / width, "middle": errors[width // 2]}[
            aggregate
        ]
        e = decay * e + (1 - decay) * value
        x = theta[b].clone().requires_grad_()
        optimizer = torch.optim.Adam([x], lr=0.05)
        optimizer.load_state_dict(copy.deepcopy(snapshots[j]))
        for i in range(b + width - j, min(b + window, STEPS) + 1):
            theta[i] = last.clone()
    return strides, theta[STEPS]


class Chain:
    """The same chain, as a process."""

    boundaries = ()

    def __init__(self) -> None:
        self.optimizer = dp.optim.Adam([dp.optim.ParamGroup(("x",), 0.05)])

    def init(self) -> dp.State:
        params = {"x": torch.linspace(-2, 2, SIZE, dtype=torch.float64)}
        return dp.State(params, self.optimizer.init(params), {}, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        return dp.Drift({"x": gradient(state.params["x"], state.step)})

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        return dp.State(params, moments, {}, state.step + 1)


@pytest.mark.parametrize("aggregate", ["median", "mean", "middle"])
@pytest.mark.parametrize("window", [2, 4, 7, 8])
@pytest.mark.parametrize("threshold", [0.0, 30.0, 3000.0])
def test_strides_agree_round_by_round(window: int, threshold: float, aggregate: str) -> None:
    strides, result = published(window, threshold, 0.9, aggregate)
    got = dp.solve(
        Chain(), STEPS, window, error_rule="paper", threshold=threshold, aggregate=aggregate, predictor="hold"
    )
    assert got.stats.strides == strides
    assert torch.equal(got.state.params["x"], result)
    assert max(strides) > 1


def test_aggregates_are_what_they_are_called() -> None:
    from dreamprop.solver.controller import AGGREGATES

    errors = [9.0, 1.0, 5.0, 2.0]
    assert AGGREGATES["median"](errors) == 3.5
    assert AGGREGATES["mean"](errors) == 4.25
    assert AGGREGATES["middle"](errors) == 5.0
