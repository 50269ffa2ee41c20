"""How often a round waits for the device: numbers are read from it once, however many tensors there are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dreamprop.state import Drift
from dreamprop.threestudio.precision import Scaling, StepSettings
from dreamprop.threestudio.replica import OVERFLOW, Replica
from dreamprop.threestudio.system import Threestudio
from tests.device_reads import DeviceReads

from . import double
from .double import System

NUMBERS = "tolist"
"""How a replica takes numbers into plain attributes: from a tensor that is on the CPU anyway."""


def reads(call: Callable[[], Any]) -> list[str]:
    """What a call reads, in this thread and in those of the steps."""
    found = DeviceReads()
    real = Replica.evaluate

    def noted(self: Replica, *args: Any) -> Drift:
        if threading.current_thread() is threading.main_thread():
            return real(self, *args)
        with found.watching():  # modes are kept for each thread
            return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "evaluate", noted)
        with found.watching():
            call()
    return found.found


def test_reads_are_seen() -> None:
    x = torch.ones(2)
    assert reads(lambda: bool(x.sum())) == ["item"]
    assert reads(lambda: x.sum().item()) == ["item"]
    assert reads(lambda: torch.equal(x, x)) == ["equal"]
    assert reads(lambda: x.tolist()) == ["tolist"]


class Wide(System):
    """With more of everything that could be read one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.more = torch.nn.ModuleList(torch.nn.Linear(3, 4) for _ in range(5))
        for i in range(5):
            self.register_buffer(f"buffer{i}", torch.ones(2))
            setattr(self, f"tensor{i}", torch.ones(2))
            setattr(self, f"number{i}", 0.5)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def training_step(self, batch: Any, index: int) -> Any:
        loss = super().training_step(batch, index)["loss"]
        for i, layer in enumerate(self.more):
            self.log(f"train/{i}", layer(batch["points"]).mean())
            loss = loss + layer(batch["points"]).mean()
        return {"loss": loss}


@pytest.mark.parametrize("kind", [System, Wide])
def test_a_round_reads_once(kind: type[System]) -> None:
    process = Threestudio(kind(), double.loader(), seed=3, settings=StepSettings(scaling=Scaling(), clip=1.0))
    states = [process.init()]
    while len(states) < 4:
        states.append(process.predict(states[-1]))
    process.drift_window(states)
    assert reads(lambda: process.drift(states[0])) == [NUMBERS, "cpu"]
    assert reads(lambda: process.drift_window(states)) == 4 * [NUMBERS] + ["cpu"]
    for state in states:
        process.update(state, process.drift(state))
    assert reads(lambda: process.take_log(4)) == ["tolist"]


class Bursting(System):
    """One gradient of its second step is not finite."""

    def training_step(self, batch: Any, index: int) -> Any:
        loss = super().training_step(batch, index)["loss"]
        return {"loss": loss + (self.background.bias * torch.inf).sum() if index == 1 else loss}


def test_gradients_that_overflowed_are_zeros_and_are_told_from_others() -> None:
    scaled = Threestudio(Bursting(), double.loader(), seed=3, settings=StepSettings(scaling=Scaling(65536.0)))
    plain = Threestudio(System(), double.loader(), seed=3)
    states = [scaled.init()]
    states.append(scaled.predict(states[0]))
    assert reads(lambda: scaled.drift(states[1])) == [NUMBERS, "cpu"]
    for fine, burst in ([scaled.drift(state) for state in states], scaled.drift_window(states)):
        assert not fine.aux[OVERFLOW] and burst.aux[OVERFLOW]
        assert not any(bool(grad.any()) for grad in burst.grads.values())
        for name, grad in plain.drift(states[0]).grads.items():  # a power of two leaves no trace
            torch.testing.assert_close(fine.grads[name], grad)


def test_a_step_that_is_skipped_has_not_overflowed() -> None:
    class Skipping(System):
        def training_step(self, batch: Any, index: int) -> Any:
            return None

    process = Threestudio(Skipping(), double.loader(), seed=3, settings=StepSettings(scaling=Scaling()))
    drift = process.drift(process.init())
    assert drift.grads == {} and not drift.aux[OVERFLOW]
