"""A wrapped loop's window side by side: its steps meet at frozen networks."""

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

WINDOW = 5
Loss = Callable[[nn.Module, int, torch.Generator], Tensor]


class Network(nn.Module):
    """A frozen network; counts how often it is run."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(wide, 8), nn.GroupNorm(2, 8), nn.Tanh(), nn.Linear(8, out))
        self.register_buffer("scale", torch.tensor(1.5))
        self.requires_grad_(False).double().eval()
        self.runs = 0

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.runs += 1
        out: Tensor = self.inner(x) * self.scale
        return out if t is None else out + t[:, None]


class Scene(nn.Module):
    """Rows to be optimised, batch statistics, a part that is seldom used, and what a loss keeps in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.rare = nn.Parameter(torch.rand(4, 3)), nn.Parameter(torch.rand(3))
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.2)
        self.register_buffer("ema", torch.zeros(()))
        self.double()

    def forward(self, rare: bool) -> Tensor:
        rows: Tensor = self.drop(self.norm(self.rows))
        return rows + self.rare if rare else rows


class Loop:
    """An engineer's loop: score distillation through an encoder, with draws of every kind."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module, self.encoder, self.unet = Scene(), Network(3, 4), Network(4, 4)

    def loss(self, module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        latent = self.encoder(module(step % 3 == 2))
        noise = torch.randn(latent.shape, generator=g, dtype=torch.float64) + 0.1 * torch.rand(())
        with torch.no_grad():
            noisy = latent + noise * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))
            scores = self.unet(torch.cat([noisy, -noisy]), torch.full((8,), 0.1 * step)).chunk(2)
            noise = noise + torch.randn_like(noise)  # after the call as before it
            module.ema.mul_(0.9).add_(latent.mean())  # type: ignore[operator, union-attr]
        return ((scores[0] - scores[1] - noise) * latent).sum() + self.encoder(module.rows).square().mean()  # type: ignore

    def wrap(self, loss: Loss | None = None, frozen: Any = None, **more: Any) -> Wrapped:
        optimizer = torch.optim.Adam(self.module.parameters(), 0.01)
        frozen = [self.encoder, self.unet] if frozen is None else frozen
        return dp.wrap(self.module, loss or self.loss, optimizer, seed=3, frozen=frozen, **more)

    def runs(self) -> tuple[int, int]:
        """Of encoder and U-Net, since this was last asked."""
        found = self.encoder.runs, self.unet.runs
        self.encoder.runs = self.unet.runs = 0
        return found


def states(process: Wrapped, count: int = WINDOW) -> list[dp.State]:
    made = [process.init()]
    while len(made) < count:
        made.append(process.update(made[-1], process.drift(made[-1])))
    return made


def assert_close(some: dp.Drift, others: dp.Drift) -> None:
    """Equal but for the order of sums in float64."""
    assert some.grads.keys() == others.grads.keys()
    for name, grad in some.grads.items():
        torch.testing.assert_close(others.grads[name], grad, rtol=1e-11, atol=1e-13)
    for name, write in some.writes.items():
        assert torch.equal(write.old, others.writes[name].old)
        torch.testing.assert_close(others.writes[name].new, write.new, rtol=1e-11, atol=1e-13)
    if some.grad_norm is not None:
        torch.testing.assert_close(others.grad_norm, some.grad_norm, rtol=1e-11, atol=0)


def test_a_window_agrees_with_one_by_one_and_runs_each_network_once() -> None:
    loop = Loop()
    process = loop.wrap(check=False, max_norm=1.0)
    process._drift.copy.module.rows.register_hook(lambda grad: grad.clamp(-0.5, 0.5))
    asked = states(process, 7)
    loop.runs()
    alone = [process.drift(state) for state in asked]
    assert loop.runs() == (14, 7)
    process.drift_window(asked[:2])  # in its first run each network is held against a call alone
    loop.runs()
    for count in (7, 3):
        together = process.drift_window(asked[:count])
        assert loop.runs() == (2, 1)
        for one, other in zip(alone, together, strict=False):
            assert_close(one, other)
    assert "rare" in together[2].grads and "rare" not in together[1].grads


def test_solving() -> None:
    """Windows are evaluated together by default, and one by one where exactness is asked for."""
    loop = Loop()
    process, plain = loop.wrap(), loop.wrap(frozen=())
    expected = dp.solve_sequential(plain, 12)
    assert equal(dp.solve_sequential(process, 12).state, expected.state)
    assert equal(dp.solve(process, 12, 4, 0.0).state, expected.state)
    assert equal(dp.solve(process, 12, 1).state, expected.state)
    loop = Loop()
    together, unchecked = loop.wrap(), Loop().wrap(check=False)
    found = dp.solve(together, 20, WINDOW, 2.0, audit=0.0)
    slow = dp.solve(plain, 20, WINDOW, 2.0, audit=0.0)
    assert found.stats.strides == slow.stats.strides and found.stats.num_rounds < 20
    for name, value in slow.state.params.items():
        torch.testing.assert_close(found.state.params[name], value, rtol=1e-9, atol=1e-11)
    assert equal(dp.solve(unchecked, 20, WINDOW, 2.0, audit=0.0).state, found.state)
    # a run a round, one that is held against a call alone, and 2 a check, of which there are 6 in 20 steps
    assert loop.unet.runs == found.stats.num_rounds + 1 + 2 * 6 - 1
    together.commit(found.state)
    assert torch.equal(loop.module.rows, found.state.params["rows"])
    assert not any("forward" in vars(part) for part in loop.unet.modules())


def test_frozen_networks_inside_the_module_are_shared() -> None:
    """Their weights are copied for no step, and their buffers are no part of a state."""
    loop = Loop()
    loop.module.guide = loop.unet
    loop.module.table = nn.Parameter(torch.rand(3), requires_grad=False)
    held = [p for p in loop.module.parameters() if p.requires_grad]

    def loss(m: nn.Module, step: int, g: torch.Generator) -> Tensor:
        return m.guide(loop.encoder(m.rows * m.table), torch.zeros(4)).square().sum()  # type: ignore[operator]

    process = dp.wrap(loop.module, loss, torch.optim.SGD(held, 0.1), frozen=[loop.encoder, loop.unet])
    asked = states(process, 3)
    assert not any(name.startswith("guide") for name in asked[0].buffers)
    for one, other in zip([process.drift(s) for s in asked], process.drift_window(asked), strict=True):
        assert_close(one, other)
    modules = [own.module for own in process._together._copies]  # type: ignore[union-attr]
    assert all(m.guide is loop.unet for m in modules) and len({id(m.rows) for m in modules}) == 3
    assert len({id(m.table) for m in modules}) == 1


def test_a_network_that_is_not_called_is_told() -> None:
    loop = Loop()
    process = loop.wrap(frozen=[Network(4, 4)])
    asked = states(process, 2)
    with pytest.warns(UserWarning, match=r"no step of a window called a network in frozen \(Network\)"):
        process.drift_window(asked)


def test_a_window_that_does_not_fit_leaves_no_copies() -> None:
    loop = Loop()
    full = False

    def loss(m: nn.Module, step: int, g: torch.Generator) -> Tensor:
        if full:
            raise torch.OutOfMemoryError("full")
        return loop.loss(m, step, g)

    process = loop.wrap(loss, check=False)
    asked = states(process, 3)
    full = True
    with pytest.raises(torch.OutOfMemoryError):
        process.drift_window(asked)
    assert len(process._together._copies) == 1  # type: ignore[union-attr]
    full = False
    assert len(process.drift_window(asked)) == 3


def replaced(change: Callable[[Network], Any]) -> Callable[[Loop], Any]:
    """A loop whose first network has been changed."""

    def prepare(loop: Loop) -> Any:
        change(loop.encoder)
        return [loop.encoder, loop.unet]

    return prepare


REFUSED: dict[str, tuple[Callable[[Loop], Any], str]] = {
    "no list": (lambda loop: loop.unet, r"frozen must be a list of networks, got Network; give \[network\]"),
    "no module": (lambda loop: [loop], "frozen must hold torch.nn.Module, got Loop; give the networks in it"),
    "trained": (
        lambda loop: [loop.module],
        "must have no trained parameters, got 'rows' of Scene, which the opt",
    ),
    "trainable": (
        replaced(lambda n: n.inner[0].requires_grad_()),
        r"got 'inner\.0\.weight' of Network with requires_grad; call its requires_grad_\(False\)",
    ),
    "statistics": (
        replaced(lambda n: n.inner.append(nn.BatchNorm1d(4).requires_grad_(False))),
        r"must keep no statistics of their batches, got 'inner\.4' of Network in training mode; call its eval",
    ),
    "compiled": (
        replaced(lambda n: n.compile(backend="eager")),
        "must not be compiled in place, got Network; give torch.compile",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_frozen_is_refused_at_once(name: str) -> None:
    prepare, words = REFUSED[name]
    loop = Loop()
    frozen = prepare(loop)
    with pytest.raises(ValueError, match=words) as caught:
        loop.wrap(frozen=frozen)
    assert "\n" not in str(caught.value)


class Writing(Network):
    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.scale.mul_(1.0)  # type: ignore[operator]
        return super().forward(x, t)


class Replacing(Network):
    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.scale = self.scale * 1.0
        return super().forward(x, t)


class Levelling(Network):
    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return super().forward(x - x.mean(0), t)


class Dropping(Network):
    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(x, t), 1e-6)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Writing, "must stay as they are, got a write to 'scale' of Writing; call its eval"),
        (Replacing, "must stay as they are, got a write to 'scale' of Replacing"),
        (Levelling, r"answer each row as if it were alone, got Levelling: with other rows .*leave it out"),
        (Dropping, "answer each row as if it were alone, got Dropping: it draws random numbers"),
    ],
)
def test_networks_that_cannot_be_shared_are_refused(kind: type[Network], words: str) -> None:
    loop = Loop()
    loop.encoder = kind(3, 4)
    process = loop.wrap(check=False)
    first = process.init()
    with pytest.raises(ValueError, match=words):
        process.drift_window([first, dp.State(first.params, {}, first.buffers, 1)])


def test_losses_that_cannot_run_side_by_side_are_refused() -> None:
    loop = Loop()
    kept: dict[str, Tensor] = {}

    def leaves(m: nn.Module, step: int, g: torch.Generator) -> Tensor:
        kept["noise"] = torch.randn(4, 4, generator=g, dtype=torch.float64)
        latent = loop.encoder(m.rows)  # here another step takes its turn
        return (latent * kept["noise"]).sum()

    first = loop.wrap(leaves).init()
    second = dp.State(first.params, {}, first.buffers, 1)
    dp.solve(loop.wrap(leaves), 4, evaluator="serial")  # pure, one by one
    with pytest.raises(dp.ImpureDrift, match="same beside other steps as alone, differed in rows; keep what"):
        loop.wrap(leaves).drift_window([first, second])

    def own(m: nn.Module, step: int, g: torch.Generator) -> Tensor:
        (grad,) = torch.autograd.grad(loop.encoder(m.rows).sum(), m.rows)  # type: ignore[arg-type]
        return (grad * m.rows).sum()

    with pytest.raises(ValueError, match="took one through Network; leave that out of frozen"):
        loop.wrap(own).drift_window([first, second])
    with pytest.raises(ValueError, match=r"use the module it is given, got a gradient at 'r"):
        loop.wrap(lambda m, t, g: loop.encoder(loop.module.rows).sum()).drift_window([first, second])
    with pytest.raises(ValueError, match="must return a scalar with a gradient"):
        loop.wrap(lambda m, t, g: loop.encoder(m.rows)).drift_window([first, second])  # type: ignore[arg-type]
    calls = iter(range(100))
    with pytest.raises(dp.ImpureDrift, match="must be the same whenever it is evaluated"):
        loop.wrap(lambda m, t, g: loop.loss(m, t, g) * next(calls)).drift_window([first, second])
