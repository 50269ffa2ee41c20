"""A loss uses the copy of the module that it is given and writes to no parameter; all else is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.state import equal
from tests.adapters.small_loop import SOLVERS, Loss, data, fit, make, pure, wrap


def assert_refused(loss_fn: Loss, module: nn.Module, words: str, check: bool = False) -> None:
    """With these words, by both solvers, and without a trace in the module."""
    before = copy.deepcopy(module.state_dict())
    for solver in SOLVERS.values():
        for parameter in module.parameters():
            parameter.grad = None
        first = next(module.parameters())
        first.grad = kept = torch.full_like(first, 7.0)
        process = wrap(loss_fn, module, check)
        with pytest.raises(ValueError, match=words) as caught:
            solver(process, 20)
        assert not isinstance(caught.value, dp.ImpureDrift) and "\n" not in str(caught.value)
        assert first.grad is kept and torch.equal(kept, torch.full_like(first, 7.0))
        assert [p.grad for p in module.parameters()][1:] == [None] * (len(list(module.parameters())) - 1)
        assert all(torch.equal(t, before[n]) for n, t in module.named_parameters())


def test_a_loss_that_uses_another_module() -> None:
    net, other = make(), make()
    assert_refused(
        lambda m, t, g: pure(net, t, g), net, "use the module it is given, got a gradient at '0.weight'"
    )
    assert_refused(lambda m, t, g: fit(nn.Sequential(*m[:3], net[3]), data(g)), net, "at '3.weight'")  # type: ignore[index]
    assert_refused(lambda m, t, g: pure(m, t, g) + 0.1 * net[3].bias.square().sum(), net, "at '3.bias'")
    assert_refused(lambda m, t, g: pure(other, t, g), net, "gradient, got none at step 0; use the module")


def test_a_loss_that_uses_the_original_without_a_gradient() -> None:
    net = make().eval()

    def fn(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        return pure(m, t, g) + (m(data(g)) - net(data(g)).detach()).square().mean()

    assert_refused(fn, net, "use the module it is given, called '0' of the one that was wrapped", check=True)
    assert not any(part._forward_pre_hooks for part in net.modules())
    net.train()  # and it keeps statistics where no state is
    assert_refused(
        fn, net, "must leave the module that was wrapped as it is, wrote to its '1.num_batches_tracked'"
    )


def test_constants_of_the_original_may_be_used() -> None:
    """A frozen part is the same in original and copy."""
    net = nn.ModuleDict({"scene": make(), "guide": nn.Linear(1, 1)})
    optimizer = torch.optim.Adam(net["scene"].parameters(), 0.01)

    def fn(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        return net["guide"](m.get_submodule("scene")(data(g))).square().mean()

    net["guide"].weight.grad = kept = torch.ones(1, 1)  # type: ignore[assignment]
    dp.solve(dp.wrap(net, fn, optimizer), 12)
    assert net["guide"].weight.grad is kept and torch.equal(kept, torch.ones(1, 1))
    assert net["guide"].bias.grad is None


def test_a_loss_that_writes_to_parameters() -> None:
    def clamped(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        with torch.no_grad():
            m.get_parameter("0.weight").clamp_(-0.1, 0.1)
        return pure(m, t, g)

    def hidden(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        m.get_parameter("0.weight").data.clamp_(-0.1, 0.1)
        return pure(m, t, g)

    def harmless(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        with torch.no_grad():
            m.get_parameter("0.weight").clamp_(-100, 100)
        return pure(m, t, g)

    assert_refused(clamped, make(), "must not write to parameters, wrote to '0.weight'")
    assert_refused(hidden, make(), "must not write to parameters, wrote to '0.weight'", check=True)
    runs = [dp.solve(wrap(fn), 10, window=4).state for fn in (harmless, pure)]
    assert equal(*runs)
    net = make()
    net.register_parameter("mean", nn.Parameter(torch.zeros(()), requires_grad=False))

    def constant(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        m.get_parameter("mean").add_(0.1)
        return pure(m, t, g)

    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    with pytest.raises(ValueError, match=r"wrote to 'mean', which no drift carries; .* keep it in a buffer"):
        dp.solve(dp.wrap(net, constant, optimizer, check=False), 10)


def test_what_cannot_be_copied_is_refused() -> None:
    net = make()
    net.batches = iter(())  # type: ignore[assignment]
    wrap(pure, net)
    net.batches = (x for x in ())  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"module must be such that copy.deepcopy copies it, got .*generator"
    ):
        wrap(pure, net)
