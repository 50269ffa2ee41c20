"""A threestudio system's window: its steps meet at its frozen networks."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamprop.evaluate.sub_batch import attempt
from dreamprop.state import State
from dreamprop.threestudio.system import Threestudio

from . import double
from .double import VAE, Posterior, System

WINDOW = 8


def chain(system: Any = None) -> Threestudio:
    return Threestudio(system or System(), double.loader(), seed=3)


def states(process: Threestudio, count: int = WINDOW) -> list[State]:
    made = [process.init()]
    while len(made) < count:
        made.append(process.update(made[-1], process.drift(made[-1])))
    return made


def counts(process: Threestudio) -> dict[str, int]:
    """Runs of the frozen networks since this was last asked."""
    guidance = process.system.guidance
    modules = {"unet": guidance.unet, "encoder": guidance.vae.encoder, "decoder": guidance.vae.decoder}
    found = {name: module.runs for name, module in modules.items()}
    for module in modules.values():
        module.runs = 0
    return found


def test_same_gradients_and_eight_times_fewer_runs() -> None:
    process = chain()
    asked = states(process)
    counts(process)
    alone = [process.drift(state) for state in asked]
    assert counts(process) == {"unet": 8, "encoder": 8, "decoder": 8}
    process.drift_window(asked)
    # seven of each together, and before that one of them alone, to compare; the last step has a larger batch
    assert counts(process) == {"unet": 3, "encoder": 8, "decoder": 3}
    together = process.drift_window(asked)
    assert counts(process) == {"unet": 2, "encoder": 8, "decoder": 2}
    assert process._batcher is not None
    assert (process._batcher.calls, process._batcher.runs) == (32, 10)
    for one, other in zip(alone, together, strict=True):
        assert one.grads.keys() == other.grads.keys()
        for name, grad in one.grads.items():
            # a float32 sum of 8 terms in another order: 8 x 2^-24 of its largest term
            torch.testing.assert_close(other.grads[name], grad, rtol=1e-5, atol=1e-6)
        for name, write in one.writes.items():
            assert torch.equal(write.new, other.writes[name].new), name


def test_frozen_weights_are_not_copied() -> None:
    process = chain()
    process.drift_window(states(process, 3))
    first, *others = process._replicas
    for other in others:
        assert other.system.guidance.unet is first.system.guidance.unet
        assert other.system.guidance.vae is first.system.guidance.vae
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
    error: type[Exception] = RuntimeError

    def training_step(self, batch: Any, index: int) -> Any:
        out = super().training_step(batch, index)
        if index == self.at:
            raise self.error(f"step {index} fails")
        return out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> tuple[Threestudio, list[State]]:
    """A chain whose second step fails, and states of it."""
    process = chain(Failing())
    asked = states(process, 4)
    monkeypatch.setattr(Failing, "at", 1)
    return process, asked


def test_a_step_that_fails_ends_the_others(
    failing: tuple[Threestudio, list[State]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, asked = failing
    with pytest.raises(RuntimeError, match="step 1 fails"):
        process.drift_window(asked)
    monkeypatch.setattr(Failing, "at", 99)
    # nothing is left waiting, and the next window is as good as any
    assert len(process.drift_window(asked)) == 4
    for network in (process.system.guidance.unet, process.system.guidance.vae):
        assert not any("forward" in vars(module) for module in network.modules())


def test_a_window_that_does_not_fit_leaves_nothing_behind(
    failing: tuple[Threestudio, list[State]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the failed steps had made, and the copies they ran on, make room for a smaller window."""
    process, asked = failing
    monkeypatch.setattr(Failing, "error", torch.OutOfMemoryError)
    made: list[weakref.ref[Tensor]] = []
    real = VAE.encode

    def encode(self: VAE, x: Tensor) -> Posterior:
        made.append(weakref.ref(x))
        return real(self, x)

    monkeypatch.setattr(VAE, "encode", encode)
    gc.disable()
    try:
        assert attempt(process, asked) is None
        left = [ref() is not None for ref in made]
    finally:
        gc.enable()
    assert left == [False] * 4
    assert len(process._replicas) == 1


class Alone(System):
    """It has no network that could be shared."""

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


def test_a_cpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    process = chain()
    process.drift_window(states(process, 2))
    assert not chosen
