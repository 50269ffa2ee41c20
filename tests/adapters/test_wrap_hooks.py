"""Hooks of modules and parameters are part of a loss, and those that cannot be kept are refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.rng import generator, seeded
from dreamprop.state import equal
from tests.adapters.small_loop import make, pure, wrap


class Scaled(nn.Linear):
    """A layer with a hook of its own on its weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight.register_hook(self.scale)

    def scale(self, grad: Tensor) -> Tensor:
        return grad + 0.1 * self.weight.detach()


def halve(factor: float, grad: Tensor) -> Tensor:
    return factor * grad


def clamp(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.clamp_(-0.05, 0.05)


HOOKS: dict[str, Callable[[nn.Sequential], Any]] = {
    "forward pre": lambda net: net[3].register_forward_pre_hook(lambda m, x: (x[0] + m.weight.mean(),)),
    "forward": lambda net: net[0].register_forward_hook(lambda m, x, out: out * 1.5),
    "backward pre": lambda net: net[3].register_full_backward_pre_hook(lambda m, grad: (grad[0] * 0.5,)),
    "backward": lambda net: net[3].register_full_backward_hook(lambda m, x, grad: (x[0] * 0.5,)),
    "tensor": lambda net: net[0].weight.register_hook(lambda grad: grad.sign() * 0.01),
    "tensor, partial": lambda net: net[0].weight.register_hook(functools.partial(halve, 0.5)),
    "tensor, method": lambda net: net.__setitem__(0, Scaled(3, 6)),
    "accumulated": lambda net: net[0].weight.register_post_accumulate_grad_hook(clamp),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_modules_and_parameters_are_called(kind: str) -> None:
    theirs, ours, none = make(), make(), make()
    for net in (theirs, ours):
        torch.manual_seed(1)
        HOOKS[kind](net)
    optimizer = torch.optim.Adam(theirs.parameters(), 0.01)
    for step in range(12):
        optimizer.zero_grad()
        with seeded(0, step, torch.device("cpu")):
            pure(theirs, step, generator(0, step, "loss")).backward()
        optimizer.step()
    process = wrap(pure, ours)
    done = dp.solve(process, 12, 5, 0.0).state
    assert all(torch.equal(done.params[n], p) for n, p in theirs.named_parameters())
    assert not equal(done, dp.solve_sequential(wrap(pure, none), 12).state)


def test_a_hook_that_remembers_is_part_of_the_loss() -> None:
    net, calls = make(), iter(range(1, 1000))
    net[0].weight.register_hook(lambda grad: grad * next(calls))
    with pytest.raises(dp.ImpureDrift, match=r"step 0 .* in 0\.weight;"):
        dp.solve(wrap(pure, net), 10)


def test_hooks_that_cannot_be_kept_are_refused() -> None:
    def own(net: nn.Sequential, hook: Callable[..., Any]) -> None:
        net[0].weight.register_hook(hook)

    def decay(grad: Tensor, p: Tensor) -> Tensor:
        return grad + p

    for register in (
        lambda net: own(net, lambda grad, p=net[0].weight: grad + p),
        lambda net: own(net, functools.partial(decay, p=net[0].weight)),
        lambda net: own(net, lambda grad: grad + net[0].weight),
        lambda net: net[0].weight.register_post_accumulate_grad_hook(
            lambda p: p.grad.add_(net[3].bias.sum())
        ),
    ):
        net = make()
        register(net)
        with pytest.raises(
            ValueError, match=r"hooks of parameters must not refer to the module .* of '0.weight'"
        ):
            wrap(pure, net)

    def average(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None: ...

    for when in ("pre", "post"):
        net = make()
        optimizer = torch.optim.Adam(net.parameters())
        handle = getattr(optimizer, f"register_step_{when}_hook")(average)
        words = f"optimizer must have no step hooks, got .*average by register_step_{when}_hook; "
        with pytest.raises(ValueError, match=words):
            dp.wrap(net, pure, optimizer)
        handle.remove()
        dp.wrap(net, pure, optimizer)
