"""An extension of a user's own, with hooks, groups, schedules and memory: the plain loop bit for bit, or refused by
name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import dreamprop as dp
from dreamprop.state import equal
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.precision import Scaling, StepSettings
from dreamprop.threestudio.system import Threestudio

from . import double
from .double import System
from .test_chain import same

STEPS = 14
SEED = 3


def chain(system: Any, terms: StepSettings | None = None) -> Threestudio:
    return Threestudio(system, double.loader(), seed=SEED, settings=terms)


class Extension(System):
    """Does what extensions do: groups with options of their own, a schedule, every hook around a step, and memory in
    plain attributes that wakes late."""

    def __init__(self) -> None:
        super().__init__(schedule=True)
        self.damping = 1.0
        self._steps = 0
        self.mean = torch.zeros(())

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        made["optimizer"].param_groups[1]["weight_decay"] = 0.1
        return made

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        super().on_train_batch_start(batch, index)
        batch["points"] = batch["points"] * self.damping

    def training_step(self, batch: Any, index: int) -> Any:
        group = self.trainer.optimizers[0].param_groups[0]
        [plan] = self.trainer.lr_scheduler_configs
        out = super().training_step(batch, index)
        rate = group["lr"] + plan.scheduler.get_last_lr()[1] + 0.01 * plan.scheduler.last_epoch
        loss = out["loss"] * (1 + rate * self.trainer.global_step) + sum(
            p.square().sum() for p in group["params"]
        )
        return {"loss": loss, "index": index}

    def on_before_backward(self, loss: Tensor) -> None:
        self.damping = 1.0 + 0.1 * float(torch.tanh(loss.detach()))

    def on_after_backward(self) -> None:
        grad = self.background.weight.grad
        assert grad is not None
        grad.mul_(1 + torch.rand(()))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=group["lr"])

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        assert outputs["index"] == index and not outputs["loss"].requires_grad
        self._steps += 1
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        if self._steps >= 10:
            self.mean = 0.9 * self.mean + outputs["loss"] * rate * self.trainer.global_step
            self.damping += 0.01 * float(torch.tanh(self.mean))


@pytest.mark.parametrize(
    ("terms", "options"),
    [
        (StepSettings(), {}),
        (StepSettings(accumulate=2, clip=0.1), {"accumulate": 2, "clip": 0.1}),
        (StepSettings(scaling=Scaling(2.0**16, growth_interval=3)), {"scaler": True}),
    ],
    ids=["plain", "accumulate and clip", "scaled"],
)
def test_an_extension_is_the_loop_bit_for_bit(terms: StepSettings, options: dict[str, Any]) -> None:
    system = Extension()
    if "scaler" in options:
        options = {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)}
    optimizer = double.fit(system, STEPS, seed=SEED, **options)
    sequential = dp.solve_sequential(chain(Extension(), terms), STEPS).state
    same(sequential, system, optimizer)
    exact = dp.solve(chain(Extension(), terms), STEPS, window=4, tolerance=0).state
    assert equal(exact, sequential)
    fast = dp.solve(chain(Extension(), terms), STEPS, window=4)
    assert fast.stats.num_rounds < STEPS


def hook(name: str) -> type[System]:
    """A system with a hook of its own."""
    return type("Mine", (System,), {name: lambda self, *_: None})


@pytest.mark.parametrize(
    "name",
    [
        "optimizer_step",
        "optimizer_zero_grad",
        "on_before_zero_grad",
        "configure_gradient_clipping",
        "lr_scheduler_step",
    ],
)
def test_a_hook_of_the_optimisers_step_is_refused(name: str) -> None:
    with pytest.raises(NotAChain, match=rf"{name} must be Lightning's own, got Mine\.{name}") as caught:
        chain(hook(name)())
    assert "\n" not in str(caught.value)
    system = System()
    setattr(system, name, lambda *_: None)
    with pytest.raises(NotAChain, match=rf"System\.{name}"):
        chain(system)


def test_a_step_that_fetches_its_own_batch_is_refused() -> None:
    with pytest.raises(NotAChain, match="training_step must be given a batch"):
        chain(type("Fetches", (System,), {"training_step": lambda self, dataloader_iter: None})())


def test_a_step_may_do_without_the_index() -> None:
    class Plain(System):
        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            return super().training_step(batch, 0)

    process = chain(Plain())
    assert process.drift(process.init()).grads


def lowers_the_rate(system: Any) -> None:
    system.trainer.optimizers[0].param_groups[0]["lr"] = 1e-3


def lowers_all_rates(system: Any) -> None:
    for group in system.trainer.optimizers[0].param_groups:
        group.update(lr=1e-3)


def steps_the_schedule(system: Any) -> None:
    system.trainer.lr_scheduler_configs[0].scheduler.step()


def stops(system: Any) -> None:
    system.trainer.should_stop = True


def reads_moments(system: Any) -> None:
    next(iter(system.trainer.optimizers[0].state.values()))


def steps_the_optimiser(system: Any) -> None:
    system.trainer.optimizers[0].step()


def counts_batches(system: Any) -> None:
    assert system.trainer.fit_loop.epoch_loop.batch_idx >= 0


def clamps(system: Any) -> None:
    with torch.no_grad():
        system.background.weight.clamp_(-0.1, 0.1)


def replaces(system: Any) -> None:
    system.background.weight.data = system.background.weight.data.clone()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lowers_the_rate, "the optimiser's lr must not be set inside a step"),
        (lowers_all_rates, "the optimiser's lr must not be set inside a step"),
        (steps_the_schedule, "the scheduler's step must not be set inside a step"),
        (stops, "trainer.should_stop must not be set inside a step"),
        (reads_moments, "the optimiser's state must not be read inside a step"),
        (steps_the_optimiser, "the optimiser's step must not be set inside a step"),
        (counts_batches, "trainer.fit_loop must not be used inside a step"),
        (clamps, "got background.weight written by the step itself"),
        (replaces, "got background.weight written by the step itself"),
    ],
)
@pytest.mark.parametrize("where", ["on_train_batch_start", "training_step", "on_train_batch_end"])
def test_what_a_step_must_not_do_is_refused(act: Callable[[Any], None], words: str, where: str) -> None:
    """By name, and with the step at which it happened."""

    class Acts(System):
        def on_train_batch_end(self, *_: Any) -> None:
            """Nothing yet."""

    def acting(self: Any, *args: Any) -> Any:
        if self.trainer.global_step >= 2:
            act(self)
        return getattr(super(kind, self), where)(*args)

    kind = type("Late", (Acts,), {where: acting})
    with pytest.raises(NotAChain, match=words) as caught:
        dp.solve_sequential(chain(kind(schedule=True)), 4)
    step = 1 if where == "on_train_batch_end" else 2
    assert str(caught.value).startswith(f"step {step}: ")
    assert "\n" not in str(caught.value)


def test_an_epoch_that_ends_is_refused() -> None:
    process = chain(type("Ends", (System,), {"on_train_batch_start": lambda *_: -1})())
    with pytest.raises(NotAChain, match="on_train_batch_start must let the epoch go on"):
        process.drift(process.init())


def test_options_are_those_of_the_step_in_any_order() -> None:
    """And of the copy that is evaluated: its own parameters, its own system."""
    seen: dict[int, list[Any]] = {}

    class Reads(System):
        def training_step(self, batch: Any, index: int) -> Any:
            [optimizer], [plan] = self.trainer.optimizers, self.trainer.lr_scheduler_configs
            assert optimizer.param_groups[1]["params"][0] is self.background.weight
            assert self.trainer.lightning_module is self
            now = [optimizer.param_groups[0]["lr"], plan.scheduler.last_epoch, plan.scheduler.get_last_lr()]
            assert seen.setdefault(index, now) == now
            return super().training_step(batch, index)

    process = chain(Reads(schedule=True))
    dp.solve(process, STEPS, window=4, evaluator="batched")
    system = System(schedule=True)
    made = system.configure_optimizers()
    for step in range(STEPS):
        group, plan = made["optimizer"].param_groups[0], made["lr_scheduler"]["scheduler"]
        assert seen[step] == [group["lr"], step, plan.get_last_lr()]
        made["optimizer"].step()
        plan.step()


class Ordered(double.Cameras):
    """Goes through its items one after another."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield from ({"index": torch.tensor(i)} for i in range(100))


class Ends(double.Cameras):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield {}


@pytest.mark.parametrize(
    "data", [Ordered(), Ends(), TensorDataset(torch.zeros(8, 3))], ids=lambda data: type(data).__name__
)
def test_data_that_come_in_an_order_are_refused(data: Any) -> None:
    with pytest.raises(
        NotAChain, match=f"must draw each batch anew and never end, got {type(data).__name__}"
    ):
        Threestudio(System(), DataLoader(data, batch_size=None), seed=SEED)
