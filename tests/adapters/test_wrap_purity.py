"""A loss that remembers is found, and looking for it changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.adapters.purity import PurityCheck, differences
from dreamprop.state import BufferWrite, equal
from tests.adapters.small_loop import SOLVERS, Loss, data, fit, make, pure, wrap


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
