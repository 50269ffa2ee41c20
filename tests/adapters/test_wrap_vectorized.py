"""A wrapped loop's window mapped by vmap: it agrees with one by one, and says what it cannot map."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.adapters.wrap import Wrapped
from dreamprop.state import equal

from .test_wrap_frozen import Network, assert_close, states

MappedLoss = Callable[[nn.Module, Tensor, Any], Tensor]
SampleFn = Callable[[int, torch.Generator], Any]


class Scene(nn.Module):
    """Batch statistics, a part that no loss uses, a constant, tied weights, and an average in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm, self.idle = nn.BatchNorm1d(3), nn.Parameter(torch.rand(3))
        self.constant = nn.Parameter(torch.rand(3), requires_grad=False)
        self.register_buffer("ema", torch.zeros(()))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.norm(self.first(x)))) * self.constant
        return out


UNET = Network(3, 3)


def sample(step: int, g: torch.Generator) -> dict[str, Any]:
    x = torch.randn(4, 3, generator=g, dtype=torch.float64) + random.random() + float(np.random.rand())
    scale = torch.tensor(2.0 if step % 3 == 2 else 1.0)
    return {"x": x, "more": (torch.rand(4, 3, dtype=torch.float64), [scale])}


def loss(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    noise, (scale,) = drawn["more"]
    out = module(drawn["x"])
    with torch.no_grad():
        target = UNET(out + noise, (0.1 * step).expand(4))
        module.ema = 0.9 * module.ema + out.mean()  # type: ignore[operator, assignment]
    return scale * torch.where(step < 2, 2.0, 1.0) * (out * (target - noise)).sum()


def wrap(loss_fn: MappedLoss = loss, sample_fn: SampleFn = sample, **more: Any) -> Wrapped:
    module = more.pop("module", None) or Scene()
    held = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(held, 0.01, weight_decay=0.1)
    return dp.wrap(module, loss_fn, optimizer, seed=3, vectorize=True, sample_fn=sample_fn, **more)


def test_a_window_agrees_with_one_by_one_in_one_call() -> None:
    process = wrap(check=False, max_norm=1.0)
    asked = states(process)
    alone = [process.drift(state) for state in asked]
    UNET.runs = 0
    together = process.drift_window(asked)
    assert UNET.runs == 1
    for one, other in zip(alone, together, strict=True):
        assert_close(one, other)
        assert one.grads.keys() == set(asked[0].params) - {"idle"}  # which the optimiser passes over
        assert set(one.writes) >= {"ema", "norm.running_mean", "norm.num_batches_tracked"}
    assert not any(p.grad is not None for p in process._drift.copy.module.parameters())


def test_solving() -> None:
    process = wrap()
    expected = dp.solve_sequential(process, 12)
    assert equal(dp.solve(process, 12, 4, 0.0).state, expected.state)
    found = dp.solve(process, 20, 5, 2.0, audit=0.0)
    slow = dp.solve(process, 20, 5, 2.0, audit=0.0, evaluator="serial")
    assert found.stats.strides == slow.stats.strides and found.stats.num_rounds < 20
    for name, value in (slow.state.params | slow.state.buffers).items():
        # the gradient of a bias in front of batch norm is rounding alone, which AdamW divides by 1e-8
        mine = found.state.params.get(name, found.state.buffers.get(name))
        torch.testing.assert_close(mine, value, rtol=1e-6, atol=1e-8)


def test_a_loss_without_draws() -> None:
    process = wrap(lambda m, t, s: m(torch.eye(3, dtype=torch.float64)).square().sum(), lambda t, g: ())
    asked = states(process, 3)
    for one, other in zip([process.drift(s) for s in asked], process.drift_window(asked), strict=True):
        assert_close(one, other)


def test_arguments_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="frozen must be left out with vectorize=True"):
        wrap(frozen=[UNET])
    module = Scene()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for more in ({"vectorize": True}, {"sample_fn": sample}):
        with pytest.raises(ValueError, match="sample_fn must be given with vectorize=True, and only then"):
            dp.wrap(module, loss, optimizer, **more)  # type: ignore[arg-type]
    module.first.weight.register_hook(lambda grad: grad)
    with pytest.raises(ValueError, match="must have no hooks with vectorize=True, got one of 'first"):
        wrap(module=module)


def noisy(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    return loss(module, step, drawn) + torch.rand(())


def branching(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    return loss(module, step, drawn) * (2.0 if step > 1 else 1.0)


def reading(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    return loss(module, step, drawn) * drawn["x"].mean().item()


def drawing(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    return loss(module, step, drawn) * random.random()


def selecting(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    return drawn["x"][drawn["x"] > 0].sum() * loss(module, step, drawn)


def failing(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    raise KeyError("theirs")


def matrix(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    return module(drawn["x"])


def writing(module: nn.Module, step: Tensor, drawn: Any) -> Tensor:
    with torch.no_grad():
        module.first.weight.mul_(0.5)  # type: ignore[union-attr, operator]
    return loss(module, step, drawn)


ORIGINAL = Scene()
"""A module that is wrapped, for a loss that uses it instead of its copy."""
MAPS = r"torch.func.vmap maps it with vectorize=True, got "


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (branching, MAPS + ".* data-dependent control flow.; choose by torch.where, or in sample_fn"),
        (reading, MAPS + r".*\.item\(\) on a Tensor.*; choose by torch.where"),
        (noisy, MAPS + ".*random.*; draw in sample_fn"),
        (drawing, "must draw no random numbers with vectorize=True, drew from numpy's or Python's"),
        (selecting, MAPS + ".*; write it in functions that vmap maps, or give frozen"),
        (failing, "theirs"),
        (matrix, "must return a scalar with a gradient"),
        (writing, "must not write to parameters, wrote to 'first.weight'"),
        (lambda m, t, s: loss(ORIGINAL, t, s), "use the module it is given, got a gradient at 'first.weight'"),
    ],
)  # fmt: skip
def test_losses_that_cannot_be_mapped_are_refused(loss_fn: MappedLoss, words: str) -> None:
    """In a line with a remedy; what a loss raises itself is raised as it is."""
    process = wrap(loss_fn, check=False, module=ORIGINAL)
    first = process.init()
    second = dp.State(first.params, {}, first.buffers, 1)
    with pytest.raises(KeyError if loss_fn is failing else ValueError, match=words) as caught:
        process.drift_window([first, second])
    assert "\n" not in str(caught.value)
    assert all(p.grad is None for p in ORIGINAL.parameters())


def test_samples_that_cannot_be_stacked_are_refused() -> None:
    def growing(step: int, g: torch.Generator) -> Tensor:
        return torch.ones(4 + step, 3, dtype=torch.float64)

    def fit(module: nn.Module, step: Tensor, x: Tensor) -> Tensor:
        return module(x).square().sum()  # type: ignore[no-any-return]

    first = wrap().init()
    second = dp.State(first.params, {}, first.buffers, 1)
    with pytest.raises(
        ValueError, match=r"same shapes and types at every step, got \[\(\[5, 3\].* at step 1, "
    ):
        wrap(fit, growing, check=False).drift_window([first, second])
    with pytest.raises(ValueError, match=r"sample_fn must return tensors, .*, got 2\.0; use torch"):
        wrap(fit, lambda step, g: {"x": 2.0}, check=False).drift(first)


def test_a_loss_that_remembers_is_found() -> None:
    """What a window shares is one value for all its steps, and another when they are evaluated alone."""
    calls = iter(range(1, 100))
    with pytest.raises(dp.ImpureDrift, match="must be the same whenever it is evaluated, differed at once"):
        dp.solve(wrap(lambda m, t, s: loss(m, t, s) * next(calls)), 6, 3)
