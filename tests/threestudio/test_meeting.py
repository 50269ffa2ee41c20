"""The meeting point: the steps of a window, one call of the frozen network."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from dreamprop.state import State
from dreamprop.threestudio.meeting import Meeting
from dreamprop.threestudio.system import Threestudio

from . import double
from .double import System, UNet

WINDOW = 8


def chain(system: Any = None) -> Threestudio:
    return Threestudio(system or System(), double.loader(), seed=3)


def states(process: Threestudio, count: int = WINDOW) -> list[State]:
    made = [process.init()]
    while len(made) < count:
        made.append(process.update(made[-1], process.drift(made[-1])))
    return made


def test_same_gradients_and_eight_times_fewer_runs() -> None:
    process = chain()
    asked = states(process)
    unet = process.system.guidance.unet
    unet.runs = 0
    alone = [process.drift(state) for state in asked]
    assert unet.runs == WINDOW
    unet.runs = 0
    together = process.drift_window(asked)
    assert unet.runs == 1
    for one, other in zip(alone, together, strict=True):
        assert one.grads.keys() == other.grads.keys()
        for name, grad in one.grads.items():
            # a float32 sum of 8 terms in another order: 8 x 2^-24 of its largest term
            torch.testing.assert_close(other.grads[name], grad, rtol=1e-5, atol=1e-6)
        for name, value in one.aux.items():
            if name.startswith("new/"):
                assert torch.equal(value, other.aux[name]), name


def test_frozen_weights_are_not_copied() -> None:
    process = chain()
    process.drift_window(states(process, 3))
    first, *others = process._replicas
    for other in others:
        assert other.system.guidance.unet is first.system.guidance.unet
        assert other.system.guidance is not first.system.guidance
        assert other.system.geometry.encoding.mask is not first.system.geometry.encoding.mask


def test_fewer_states_than_before_and_more() -> None:
    process = chain()
    asked = states(process, 5)
    for count in (3, 5, 2):
        for one, state in zip(process.drift_window(asked[:count]), asked, strict=False):
            alone = process.drift(state)
            torch.testing.assert_close(one.grads["background.weight"], alone.grads["background.weight"])


class Failing(System):
    at = 99

    def training_step(self, batch: Any, index: int) -> Any:
        out = super().training_step(batch, index)
        if index == self.at:
            raise RuntimeError("step 1 fails")
        return out


def test_a_step_that_fails_ends_the_others() -> None:
    process = chain(Failing())
    asked = states(process, 4)
    Failing.at = 1
    try:
        with pytest.raises(RuntimeError, match="step 1 fails"):
            process.drift_window(asked)
    finally:
        Failing.at = 99
    # nothing is left waiting, and the next window is as good as any
    assert len(process.drift_window(asked)) == 4
    assert "forward" not in vars(process.system.guidance.unet)


class Alone(System):
    """Its network sees gradients, so that nothing can be shared."""

    def __init__(self) -> None:
        super().__init__()
        self.guidance = None  # type: ignore[assignment]

    def training_step(self, batch: Any, index: int) -> Any:
        return {"loss": (self.geometry(batch["points"]) ** 2).sum()}


def test_one_by_one_where_nothing_meets(capsys: pytest.CaptureFixture[str]) -> None:
    process = chain(Alone())
    asked = states(process, 3)
    for _ in range(2):
        drifts = process.drift_window(asked)
    assert len(drifts) == 3
    said = capsys.readouterr().err
    assert said.count("one by one: it holds no frozen network") == 1


def test_calls_that_are_not_alike_are_answered_apart() -> None:
    network = UNet()
    meeting = Meeting([network])
    t = torch.zeros(2)

    def task(width: int, scale: float) -> Any:
        def run() -> torch.Tensor:
            with torch.no_grad():
                x = torch.ones(width, 4)
                return network(x, torch.zeros(width), scale=scale)

        return run

    out = meeting.run([task(2, 1.0), task(3, 1.0), task(2, 2.0), task(1, 1.0)])
    assert [len(o) for o in out] == [2, 3, 2, 1]
    assert (meeting.calls, meeting.answers) == (4, 2)
    torch.testing.assert_close(out[2], 2 * network(torch.ones(2, 4), t))
    assert threading.active_count() >= 1


def test_steps_draw_what_they_draw_alone() -> None:
    network = UNet()
    meeting = Meeting([network])

    def task(seed: int) -> Any:
        def run() -> float:
            torch.manual_seed(seed)
            torch.rand(1)
            with torch.no_grad():
                network(torch.ones(1, 4), torch.zeros(1))
            return float(torch.rand(1))

        return run

    assert meeting.run([task(i) for i in range(3)]) == [task(i)() for i in range(3)]


def test_recorded_calls_do_not_wait() -> None:
    network = UNet()
    meeting = Meeting([network])

    def run() -> float:
        x = torch.ones(1, 4, requires_grad=True)
        network(x, torch.zeros(1)).sum().backward()
        assert x.grad is not None
        return float(x.grad.sum())

    assert len(set(meeting.run([run, run]))) == 1
    assert meeting.calls == 0
