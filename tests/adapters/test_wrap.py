"""``wrap`` is the plain PyTorch loop, bit for bit, and leaves no trace of what was thrown away."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.rng import generator, seeded
from dreamprop.state import equal

STEPS = 16
T, S = torch.optim, torch.optim.lr_scheduler

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: T.SGD(p, 1e-2),
    "momentum": lambda p: T.SGD(p, 1e-2, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: T.Adam(p, 1e-2),
    "AdamW": lambda p: T.AdamW(p, 1e-2, amsgrad=True),
    "NAdam": lambda p: T.NAdam(p, 1e-2),
    "RMSprop": lambda p: T.RMSprop(p, 1e-3, momentum=0.5),
    "Adagrad": lambda p: T.Adagrad(p, 1e-2),
    "Rprop": lambda p: T.Rprop(p, 1e-3),
}
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "none": lambda o: None,
    "cosine": lambda o: S.CosineAnnealingLR(o, STEPS),
    "one cycle": lambda o: S.OneCycleLR(o, 0.02, STEPS + 1),  # moves the momentum too
    "chained": lambda o: S.SequentialLR(o, [S.LinearLR(o), S.LambdaLR(o, lambda t: 0.9**t)], [4]),
}


class Net(nn.Module):
    """Dropout draws, batch normalisation keeps statistics, one layer takes part only now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)
        )
        self.rare = nn.Linear(3, 1)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor, rare: bool) -> Tensor:
        out: Tensor = self.body(x) * self.frozen
        return out + self.rare(x) if rare else out


def loss(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
    x = torch.randn(16, 3, generator=g)
    scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())
    return scale * ((module(x, step % 3 == 2) - x.sin().sum(1, keepdim=True)) ** 2).mean()


def make(name: str, schedule: str) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    module = Net()
    held = [p for p in module.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[name]([{"params": held[:2]}, {"params": held[2:], "lr": 5e-3}])
    return module, optimizer, SCHEDULERS[schedule](optimizer)


def plain(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    steps: range,
    max_norm: float | None = None,
) -> None:
    for step in steps:
        optimizer.zero_grad()
        with seeded(3, step, torch.device("cpu")):
            loss(module, step, generator(3, step, "loss")).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], max_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def assert_same(a: Any, b: Any) -> None:
    """Nested dicts and lists of tensors and numbers, exactly; what is None may be left out."""
    if isinstance(a, dict):
        a, b = ({k: v for k, v in d.items() if v is not None} for d in (a, b))
        assert a.keys() == b.keys()
        for k in a:
            assert_same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif not callable(a):
        assert a == b


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        *((name, "cosine") for name in OPTIMIZERS),
        *(("momentum", s) for s in SCHEDULERS),
        ("Adam", "one cycle"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*", "ignore:The epoch parameter")
def test_wrapped_is_the_plain_loop(name: str, schedule: str) -> None:
    theirs = make(name, schedule)
    plain(*theirs, range(STEPS))
    ours = make(name, schedule)
    untouched = make(name, schedule)
    process = dp.wrap(ours[0], loss, ours[1], seed=3, scheduler=ours[2])
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    expected = dp.solve_sequential(process, STEPS)
    got = dp.solve(process, STEPS, 5, 0)
    assert equal(got.state, expected.state)
    assert dp.solve(process, STEPS, 5).state.step == STEPS
    # until it is committed, nothing of the user's has changed
    assert_same(ours[0].state_dict(), untouched[0].state_dict())
    assert_same(ours[1].state_dict(), untouched[1].state_dict())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]
    process.commit(got.state)
    for a, b in zip(ours, theirs, strict=True):
        if a is not None:
            assert_same(a.state_dict(), b.state_dict())
    # and a plain loop goes on from there, without touching the state
    kept = [t.clone() for t in [*got.state.params.values(), *got.state.moments.values()]]
    for part in (ours, theirs):
        plain(*part[:2], None, range(STEPS, STEPS + 2))
    assert_same(ours[0].state_dict(), theirs[0].state_dict())
    assert_same(kept, [*got.state.params.values(), *got.state.moments.values()])


def test_wrapping_a_loop_that_has_begun() -> None:
    """Moments and schedule of the optimiser are taken along; step 0 of the process is the next step."""
    module, optimizer, scheduler = make("Adam", "cosine")
    plain(module, optimizer, scheduler, range(5))
    process = dp.wrap(module, loss, optimizer, seed=3, scheduler=scheduler)
    done = dp.solve(process, 4, 3, 0)
    for step in range(4):
        plain(module, optimizer, scheduler, range(step, step + 1))
    assert_same(done.state.params, {n: p for n, p in module.named_parameters() if n in done.state.params})


def test_counters_go_on_from_accepted_values() -> None:
    """Batch normalisation counts its batches once a step, whatever was guessed and thrown away."""
    module, optimizer, _ = make("Adam", "none")
    got = dp.solve(dp.wrap(module, loss, optimizer), 12, 6, 5.0)
    assert got.state.buffers["body.1.num_batches_tracked"] == 12
    assert got.stats.num_rounds < 12


def test_what_cannot_be_wrapped_is_told() -> None:
    module, optimizer, _ = make("Adam", "none")
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="optimizer must hold parameters of the module only"):
        dp.wrap(module, loss, T.Adam(other.parameters()))
    with pytest.raises(ValueError, match="scheduler must hold the same optimizer"):
        dp.wrap(module, loss, optimizer, scheduler=S.StepLR(T.Adam(other.parameters()), 3))
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        dp.wrap(module, loss, optimizer, scheduler=S.ReduceLROnPlateau(optimizer))
    with pytest.raises(ValueError, match="LBFGS"):
        dp.wrap(module, loss, T.LBFGS(module.parameters()))
    process = dp.wrap(module, lambda m, t, g: torch.zeros(()), optimizer)
    with pytest.raises(ValueError, match="loss_fn must return a scalar with a gradient"):
        dp.solve(process, 1)
    state = process.init()
    with pytest.raises(ValueError, match="missing"):
        process.commit(dp.State({}, state.moments, state.buffers, 0))


def test_clipping_by_the_norm_is_the_plain_loop() -> None:
    user, ours = make("Adam", "cosine"), make("Adam", "cosine")
    plain(*user, range(STEPS), max_norm=0.2)
    process = dp.wrap(ours[0], loss, ours[1], seed=3, scheduler=ours[2], max_norm=0.2)
    state = dp.solve(process, STEPS, 4, 0.0).state
    assert all(torch.equal(state.params[n], p) for n, p in user[0].named_parameters() if p.requires_grad)
    unclipped = dp.wrap(ours[0], loss, ours[1], seed=3, scheduler=ours[2])
    assert not equal(dp.solve_sequential(unclipped, STEPS).state, state)
    with pytest.raises(ValueError, match="max_norm must be > 0, got 0"):
        dp.wrap(ours[0], loss, ours[1], max_norm=0)
