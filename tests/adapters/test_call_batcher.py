"""The meeting point: the steps of a window, one call of each frozen network."""

from __future__ import annotations

import contextvars
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamprop.adapters.call_batcher import CallBatcher

from ..threestudio.double import VAE, Posterior, UNet


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
def test_recorded_calls_do_not_wait_unless_asked(kept: bool) -> None:
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


def squares(seed: int, network: nn.Module, inner: bool = False) -> Callable[[], tuple[Tensor, Tensor]]:
    """A step with a parameter of its own, and a loss on it through a network."""

    def run() -> tuple[Tensor, Tensor]:
        x = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x.requires_grad_()
        y = checkpoint(network, x * x, use_reentrant=False) if inner else network(x * x)
        return (y * y + x).sum() * seed, x

    return run


@pytest.mark.parametrize("inner", [False, True], ids=["called", "checkpointed"])
def test_recorded_calls_meet_and_are_differentiated_together(inner: bool) -> None:
    """In a checkpointed part they do not: what is saved there is not for another thread to keep."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double().requires_grad_(False)
    meeting = CallBatcher([network], recorded=True)
    tasks = [squares(seed, network, inner) for seed in range(1, 4)]
    for _ in range(2):
        together = meeting.run(tasks)
        meeting.backward([loss for loss, _ in together])
        for (loss, x), task in zip(together, tasks, strict=True):
            own, alone = task()
            own.backward()
            torch.testing.assert_close(loss, own)
            torch.testing.assert_close(x.grad, alone.grad)
    assert (meeting.calls, meeting.runs) == ((0, 0) if inner else (6, 3))


def test_a_step_must_not_differentiate_joined_answers_itself() -> None:
    network = nn.Linear(4, 4).double().requires_grad_(False)
    meeting = CallBatcher([network], recorded=True)

    def run() -> Tensor:
        loss, x = squares(1, network)()
        return torch.autograd.grad(loss, x)[0].sum()

    with pytest.raises(ValueError, match=r"to the backward pass of its loss, took one through Linear; leave"):
        meeting.run([run] * 2)


def test_backward_passes_that_draw_are_refused() -> None:
    network = nn.Linear(4, 4).double().requires_grad_(False)
    meeting = CallBatcher([network], recorded=True)
    losses = meeting.run([squares(1, network), squares(2, network)])
    losses[1][1].register_hook(lambda grad: grad + torch.rand_like(grad))
    with pytest.raises(ValueError, match="backward passes must draw no random numbers"):
        meeting.backward([loss for loss, _ in losses])


def test_a_thread_has_the_settings_of_its_caller() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(1)

    def settings() -> Any:
        product = torch.ones(2, 2, device="cpu") @ torch.ones(2, 2, device="cpu")
        return torch.empty(0).device, product.dtype, variable.get()

    batcher = CallBatcher([])
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        assert batcher.run([settings] * 2) == [(torch.device("meta"), torch.bfloat16, 1)] * 2
    assert batcher.run([settings] * 2) == [(torch.device("cpu"), torch.float32, 1)] * 2
