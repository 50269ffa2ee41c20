"""What an optimiser remembers of a parameter and of a group of them is told apart, whatever parameters are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import dreamprop as dp
from dreamprop.adapters.moments import Moments
from dreamprop.state import equal


class Net(nn.Module):
    """Its parameters are called as groups are: ``group.weight``, ``group.bias``."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.Linear(3, 2)


class Listed(nn.Module):
    """Its parameters are called as groups are, with an index: ``group.0``."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.ParameterList([nn.Parameter(torch.ones(3))])


class Counting(torch.optim.Optimizer):
    """Counts its steps in its groups."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-group["lr"] / group["count"])


def loss(module: nn.Module, step: int, g: torch.Generator) -> torch.Tensor:
    noise = torch.randn((), generator=g)
    return sum((p - noise).square().sum() for p in module.parameters())  # type: ignore[return-value]


def plain(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, torch.Tensor]:
    """The loop as it is written by hand."""
    for step in range(steps):
        optimizer.zero_grad()
        loss(module, step, dp.rng.generator(0, step, "loss")).backward()
        optimizer.step()
    return {name: p.detach() for name, p in module.named_parameters()}


@pytest.mark.parametrize("make", [Net, Listed])
@pytest.mark.parametrize("kind", [lambda p: torch.optim.Adam(p, 0.1), Counting])
def test_parameters_may_be_called_as_groups(make: type[nn.Module], kind: Any) -> None:
    torch.manual_seed(0)
    module = make()
    process = dp.wrap(module, loss, kind(module.parameters()))
    if make is Listed and kind is Counting:
        with pytest.raises(
            ValueError, match=r"must not be called group\.0 .* remembers count of its group 0"
        ):
            dp.solve_sequential(process, 5)
        return
    found = dp.solve(process, 5, 3, 0.0).state
    assert equal(found, dp.solve_sequential(process, 5).state)
    expected = plain(module, kind(module.parameters()), 5)
    for name, value in expected.items():
        assert torch.equal(found.params[name], value), name


def test_split_and_join_are_inverse() -> None:
    named = {
        n: torch.rand(2) for n in ("a/exp_avg", "a/step", "group.b/exp_avg", "group.0/step", "group.12/k")
    }
    split = Moments.split(named, {"a", "group.b"})
    assert split.of_parameters.keys() == {"a", "group.b"} and split.of_groups.keys() == {0, 12}
    joined = split.join()
    assert joined.keys() == named.keys() and all(joined[n] is named[n] for n in named)
    assert Moments.split({"group.0/x": named["a/step"]}, {"group.0"}).of_groups == {}
