"""A small loop to wrap, whose loss does all it may, and the solvers that run it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.adapters.wrap import Wrapped

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]


def make() -> nn.Sequential:
    """The module, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))


def data(g: torch.Generator) -> Tensor:
    """Inputs [8, 3] from the given generator and from the global one, which the step seeds."""
    return torch.randn(8, 3, generator=g) + 0.1 * torch.randn(3)


def fit(module: nn.Module, x: Tensor) -> Tensor:
    """Mean square of what the module gives beside the sum of its inputs."""
    out: Tensor = (module(x) - x.sum(1, keepdim=True)).square().mean()
    return out


def pure(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
    """A loss that depends on module, step and draws alone."""
    return fit(module, data(g))


def wrap(loss_fn: Loss, module: nn.Module | None = None, check: bool = True) -> Wrapped:
    """The loop with Adam."""
    module = make() if module is None else module
    return dp.wrap(module, loss_fn, torch.optim.Adam(module.parameters(), 0.01), check=check)


SOLVERS: dict[str, Callable[[dp.Process, int], dp.Solution]] = {
    "sequential": dp.solve_sequential,
    "serial": lambda process, steps: dp.solve(process, steps, 8, evaluator="serial"),
    "distributed": lambda process, steps: dp.solve(process, steps, 6, evaluator="distributed"),
}
"""Ways to run a process for so many steps."""
