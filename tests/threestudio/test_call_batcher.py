"""The meeting point: the steps of a window, one call of each frozen network."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamprop.evaluate.sub_batch import attempt
from dreamprop.state import State
from dreamprop.threestudio.call_batcher import CallBatcher
from dreamprop.threestudio.system import Threestudio

from . import double
from .double import VAE, Posterior, System, UNet

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


def calling(call: Callable[[], Tensor], seed: int = 0) -> Callable[[], tuple[Tensor, Tensor]]:
    """A step that makes a call and draws something like the answer."""

    def run() -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        with torch.no_grad():
            answer = call()
        return answer, torch.randn_like(answer)

    return run


def test_calls_that_are_not_alike_are_answered_apart() -> None:
    network = UNet()
    meeting = CallBatcher([network])

    def task(width: int, scale: float) -> Any:
        return calling(lambda: network(torch.ones(width, 4), torch.zeros(width), scale=scale))

    asked = [(2, 1.0), (3, 1.0), (2, 2.0), (2, 1.0)]
    out = meeting.run([task(*one) for one in asked])
    assert [len(o) for o, _ in out] == [2, 3, 2, 2]
    assert (meeting.calls, meeting.runs) == (4, 4), "two together after one of them alone, and two alone"
    torch.testing.assert_close(out[2][0], 2 * network(torch.ones(2, 4), torch.zeros(2)))


class Nested(nn.Module):
    """Entered at any depth, by any method."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = VAE()

    def first_stage(self, x: Tensor) -> Tensor:
        return self.vae.decode(x)


def test_a_network_may_be_entered_anywhere() -> None:
    network = Nested()
    meeting = CallBatcher([network])
    steps = [calling(lambda i=i: network.first_stage(torch.full((1, 4), i))) for i in (1.0, 2.0, 3.0)]  # type: ignore
    for _ in range(2):
        for (one, _), (other, _) in zip(meeting.run(steps), [step() for step in steps], strict=True):
            torch.testing.assert_close(one, other)
    assert (meeting.calls, meeting.runs) == (6, 3)


class Leveller(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Summary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


class Pair(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 2:
            raise ValueError("a pair is needed")
        return x.flip(0)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-6 * torch.rand(())


class Boxed(nn.Module):
    def forward(self, x: Tensor) -> Posterior:
        return Posterior(x)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Leveller(), r"come out different by 0.\d of their norm"),
        (Summary(), r"answers one call with shape \[\], 3 calls with \[\]"),
        (Pair(), "ValueError: a pair is needed"),
        (Noisy(), "it draws random numbers"),
        (Boxed(), "answers with Posterior, which has no rows"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_that_does_not_answer_row_by_row_is_not_shared(
    network: nn.Module, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step has its own answer, from its own draws, and the reason is told once."""
    meeting = CallBatcher([network])

    def call(seed: int) -> Callable[[], Tensor]:
        x = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed))
        return lambda: answer if isinstance(answer := network(x), Tensor) else answer.mean

    steps = [calling(call(i), seed=i) for i in range(3)]
    alone = [step() for step in steps]
    for _ in range(2):
        for one, other in zip(meeting.run(steps), alone, strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert meeting.calls == 3, "the second time nobody waits"
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"steps of a window do not share their calls of {type(network).__name__}: ")
    assert "\n" not in said and re.search(words, said), said


class Turning(nn.Module):
    """Its answer lies otherwise in memory where there are more rows, as an attention's does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(memory_format=torch.channels_last if len(x) > 1 else torch.contiguous_format) + 1.0


def test_answers_lie_in_memory_as_alone() -> None:
    """Else what a step draws in the likeness of one would be another draw."""
    network = Turning()
    meeting = CallBatcher([network])
    steps = [calling(lambda i=i: network(torch.full((1, 4, 8, 8), i)), int(i)) for i in (1.0, 2.0, 3.0)]  # type: ignore
    for _ in range(2):
        for one, other in zip(meeting.run(steps), [step() for step in steps], strict=True):
            assert one[0].stride() == other[0].stride()
            assert torch.equal(one[1], other[1])
    assert meeting.runs == 3


def test_steps_draw_what_they_draw_alone() -> None:
    network = UNet()
    meeting = CallBatcher([network])

    def task(seed: int) -> Any:
        def run() -> float:
            torch.manual_seed(seed)
            torch.rand(1)
            with torch.no_grad():
                network(torch.ones(1, 4), torch.zeros(1))
            return float(torch.rand(1))

        return run

    assert meeting.run([task(i) for i in range(3)]) == [task(i)() for i in range(3)]


@pytest.mark.parametrize("kept", [False, True], ids=["checkpointed", "recorded"])
def test_recorded_calls_do_not_wait(kept: bool) -> None:
    """Nor do calls inside them, though a checkpointed one is made without gradients first."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).requires_grad_(False)
    if not kept:
        inner = network[0]
        network.forward = lambda x: network[1](checkpoint(inner, x, use_reentrant=True))  # type: ignore
    meeting = CallBatcher([network])

    def run() -> float:
        x = torch.ones(1, 4, requires_grad=True)
        network(x).sum().backward()
        assert x.grad is not None
        return float(x.grad.sum())

    assert set(meeting.run([run, run])) == {run()}
    assert meeting.calls == 0


def test_every_thread_is_on_the_gpu_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch keeps the current device for each thread, and begins with the first one."""
    chosen: dict[str, torch.device] = {}
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.update({threading.current_thread().name: device})
    )
    device = torch.device("cuda", 3)
    ran = CallBatcher([UNet()], device).run([lambda: threading.current_thread().name] * 3)
    assert len(set(ran)) == 3
    assert chosen == dict.fromkeys(ran, device)
    chosen.clear()
    process = chain()
    process.drift_window(states(process, 2))
    assert not chosen, "a CPU is no GPU"
