"""What a wrapped loop must not do is found, and looking for it changes nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.adapters.purity import PurityCheck, differences
from dreamprop.adapters.wrap import Wrapped
from dreamprop.rng import generator, seeded
from dreamprop.state import BufferWrite, equal

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))


def data(g: torch.Generator) -> Tensor:
    return torch.randn(8, 3, generator=g) + 0.1 * torch.randn(3)


def fit(module: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = (module(x) - x.sum(1, keepdim=True)).square().mean()
    return out


def pure(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
    return fit(module, data(g))


def wrap(loss_fn: Loss, module: nn.Module | None = None, check: bool = True) -> Wrapped:
    module = make() if module is None else module
    return dp.wrap(module, loss_fn, torch.optim.Adam(module.parameters(), 0.01), check=check)


SOLVERS: dict[str, Callable[[dp.Process, int], dp.Solution]] = {
    "sequential": dp.solve_sequential,
    "serial": lambda process, steps: dp.solve(process, steps, 8, evaluator="serial"),
    "distributed": lambda process, steps: dp.solve(process, steps, 6, evaluator="distributed"),
}


class Counts:
    """A pure loss that notes the steps it is called for."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        self.steps.append(step)
        return pure(module, step, g)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_check_changes_nothing(solver: str) -> None:
    checked, plain = (SOLVERS[solver](wrap(pure, check=check), 24) for check in (True, False))
    assert equal(checked.state, plain.state)
    assert checked.stats.errors == plain.stats.errors
    assert checked.stats.num_drifts == plain.stats.num_drifts


def test_the_check_costs_a_few_drifts() -> None:
    """One more at the first step, two more at steps 1, 2, 4, 8, ..., in each run anew."""
    loss = Counts()
    process = wrap(loss)
    for _ in range(2):
        dp.solve_sequential(process, 6)
        assert loss.steps == [0, 0, 1, 0, 1, 2, 1, 2, 3, 4, 2, 4, 5]
        loss.steps.clear()
    done = dp.solve(process, 40, 8, evaluator="serial")
    assert len(loss.steps) == done.stats.num_drifts + len(done.stats.audits) + 13
    loss.steps.clear()
    done = dp.solve(wrap(loss), 60, 8, evaluator="serial", state=done.state)  # it goes on elsewhere
    assert len(loss.steps) == done.stats.num_drifts + len(done.stats.audits) + 11

    again: list[int] = []

    def evaluate(state: dp.State) -> dp.Drift:
        again.append(state.step)
        return dp.Drift({})

    check = PurityCheck(evaluate)
    for step in range(1000):
        check(dp.State({}, {}, {}, step), dp.Drift({}))
    assert len(again) == 21


def counter(matters: Callable[[int, int], bool]) -> Callable[[], Loss]:
    """A loss that counts its calls, and scales by them where (count, step) say so."""

    def loss() -> Loss:
        count = 0

        def fn(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
            nonlocal count
            count += 1
            return pure(module, step, g) * (count if matters(count, step) else 1)

        return fn

    return loss


def switch() -> Loss:
    """From the eleventh call on something is on, and stays as it is."""
    calls = iter(range(10**6))
    return lambda module, step, g: pure(module, step, g) * (1 if next(calls) < 10 else 2)


def iterator() -> Loss:
    batches: Iterator[Tensor] = iter(torch.randn(1000, 8, 3))
    return lambda module, step, g: fit(module, next(batches))


def average() -> Loss:
    class Average:
        ema: Tensor | None = None

        def __call__(self, module: nn.Module, step: int, g: torch.Generator) -> Tensor:
            loss = pure(module, step, g)
            self.ema = loss.detach() if self.ema is None else 0.9 * self.ema + 0.1 * loss.detach()
            return loss / self.ema

    return Average()


def average_in_module() -> Loss:
    def fn(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        loss = pure(module, step, g)
        module.ema = 0.9 * getattr(module, "ema", 1.0) + 0.1 * loss.item()  # type: ignore[assignment]
        return loss / module.ema

    return fn


def own_generator() -> Loss:
    own = torch.Generator().manual_seed(1)
    return lambda module, step, g: pure(module, step, own)


def teacher() -> Loss:
    """A copy of the module every tenth step: which one it is depends on what was called before."""
    known: list[nn.Module] = []

    def fn(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        if step % 10 == 0:
            known[:] = [copy.deepcopy(module)]
        x = data(g)
        target = known[0](x).detach() if known else 0
        return (module(x) - target).square().mean() + fit(module, x)

    return fn


def mode() -> Loss:
    def fn(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        return pure(module.eval() if step == 5 else module, step, g)

    return fn


def freezing() -> Loss:
    def fn(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        if step == 5:
            module.get_submodule("0").requires_grad_(False)
        return pure(module, step, g)

    return fn


IMPURE: dict[str, tuple[Callable[[], Loss], int]] = {
    "counter": (counter(lambda count, step: True), 0),
    "counter from call 10": (counter(lambda count, step: count > 10), 8),
    "counter from step 10": (counter(lambda count, step: step >= 10), 16),
    "switch": (switch, 8),
    "iterator": (iterator, 0),
    "average": (average, 1),
    "average in the module": (average_in_module, 0),
    "own generator": (own_generator, 0),
    "teacher": (teacher, 16),
    "mode": (mode, 8),
    "freezing": (freezing, 8),
}
"""Losses that remember, and the step at which a run finds it at the latest."""


@pytest.mark.parametrize("name", IMPURE)
@pytest.mark.parametrize("solver", SOLVERS)
def test_memory_is_found(name: str, solver: str) -> None:
    loss, latest = IMPURE[name]
    with pytest.raises(dp.ImpureDrift, match="must be the same whenever it is evaluated") as caught:
        SOLVERS[solver](wrap(loss()), 20)
    error = caught.value
    assert isinstance(error, ValueError) and "\n" not in str(error)
    assert error.step <= error.reached <= latest and f"step {error.step} " in str(error)
    assert error.names and error.names[0] in str(error)
    SOLVERS[solver](wrap(loss(), check=False), 20)  # nothing else finds it


def test_a_buffer_alone_may_tell() -> None:
    """The gradient does not depend on what is remembered; a buffer does, and a later step may read it."""
    module = make()
    module.register_buffer("seen", torch.zeros(()))
    calls = iter(range(1000))

    def fn(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        module.seen.fill_(next(calls))  # type: ignore[operator]
        return pure(module, step, g)

    with pytest.raises(dp.ImpureDrift, match=r"step 0 .* differed at once in seen;") as caught:
        dp.solve(wrap(fn, module), 10)
    assert caught.value.names == ("seen",)


def test_sums_in_any_order_are_no_memory() -> None:
    """On several threads the gradient of an indexed tensor comes out different in its last bits."""
    torch.manual_seed(0)
    grid, where, weight = nn.Embedding(500, 8), torch.randint(0, 500, (40000,)), torch.randn(40000, 8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        fn = lambda module, step, g: (module.weight[where] * weight).square().mean()  # noqa: E731
        assert dp.solve_sequential(wrap(fn, grid), 10).state.step == 10
    finally:
        torch.set_num_threads(threads)


def test_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(old: int, new: int) -> dict[str, BufferWrite]:
        return {"n": BufferWrite(torch.tensor(old), torch.tensor(new))}

    big, noise = torch.ones(100), torch.zeros(100)
    one = dp.Drift({"a": big, "noise": noise + 1e-9}, writes=count(2, 3))

    def other(**grads: Tensor) -> dp.Drift:
        return dp.Drift(one.grads | grads, writes=one.writes)

    assert differences(one, other()) == []
    assert differences(one, other(a=big * (1 + 1e-6), noise=noise)) == ["a", "noise"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert differences(one, other(a=big * (1 + 1e-6), noise=noise)) == []
    assert differences(one, other(a=big * 1.01, noise=noise)) == ["a"]
    assert differences(one, other(noise=noise + 1)) == ["noise"]
    # what is not finite is no different from itself, and from anything else it is
    odd = torch.tensor([torch.nan, torch.inf, 1.0])
    assert differences(other(a=odd), other(a=odd.clone())) == []
    assert differences(other(a=odd), other(a=odd.nan_to_num(0.0))) == ["a"]
    assert differences(one, dp.Drift({"a": big}, writes=one.writes)) == ["noise"]
    assert differences(one, other(a=big[:50])) == differences(one, other(a=big.double())) == ["a"]
    assert differences(one, dp.Drift(one.grads, writes=count(7, 4))) == ["n"]


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
    assert equal(dp.solve(wrap(harmless), 10).state, dp.solve(wrap(pure), 10).state)
    net = make()
    net.register_parameter("mean", nn.Parameter(torch.zeros(()), requires_grad=False))

    def constant(m: nn.Module, t: int, g: torch.Generator) -> Tensor:
        m.get_parameter("mean").add_(0.1)
        return pure(m, t, g)

    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    with pytest.raises(ValueError, match=r"wrote to 'mean', which no drift carries; .* keep it in a buffer"):
        dp.solve(dp.wrap(net, constant, optimizer, check=False), 10)


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


def test_what_cannot_be_copied_is_refused() -> None:
    net = make()
    net.batches = iter(())  # type: ignore[assignment]
    wrap(pure, net)
    net.batches = (x for x in ())  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"module must be such that copy.deepcopy copies it, got .*generator"
    ):
        wrap(pure, net)
