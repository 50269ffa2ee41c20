"""The window of the first process arrives on another one as it was: values, steps, and the kind of device."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamprop.runs.broadcast import broadcast_window
from dreamprop.solver.window import Window
from dreamprop.state import State


class Sender:
    """The first of two processes, which keeps what it sends."""

    rank, size = 0, 2
    told: Any = None
    block: Tensor | None = None

    def all_gather_object(self, value: Any) -> list[Any]:
        self.told = json.loads(json.dumps(value))
        return [self.told, None]

    def broadcast(self, block: Tensor, size: int) -> Tensor:
        assert block.device.type == "cpu" and block.numel() == size
        self.block = block
        return block


class Receiver(Sender):
    """The second, which is given it."""

    rank = 1

    def __init__(self, first: Sender) -> None:
        self.first = first

    def all_gather_object(self, value: Any) -> list[Any]:
        assert value is None
        return [self.first.told, None]

    def broadcast(self, block: Tensor | None, size: int) -> Tensor:
        assert block is None and self.first.block is not None
        return self.first.block


def window(device: str) -> Window:
    def state(step: int) -> State:
        params = {"grid": torch.full((2, 3), float(step), device=device)}
        moments = {"grid/exp_avg": torch.ones(2, 3, device=device), "grid/step": torch.tensor(float(step))}
        return State(params, moments if step == 4 else {}, {"params": torch.tensor(step)}, step)

    return Window((state(4), state(5)), 2.5, {"params": torch.tensor(1)})


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_window_arrives_as_it_was(device: str) -> None:
    with nullcontext() if device == "cpu" else FakeTensorMode():
        sent, sender = window(device), Sender()
        at_first = broadcast_window(sender, sent)  # type: ignore[arg-type]
        found = broadcast_window(Receiver(sender), None)  # type: ignore[arg-type]
    for got in (at_first, found):
        assert got is not None and got.threshold == 2.5 and len(got.states) == 2
        pairs = [(got.trend, sent.trend)]
        for now, then in zip(got.states, sent.states, strict=True):
            assert now.step == then.step
            pairs += [(getattr(now, p), getattr(then, p)) for p in ("params", "moments", "buffers")]
        for now, then in pairs:
            assert list(now) == list(then)
            for name, tensor in now.items():
                assert (tensor.device, tensor.dtype, tensor.shape) == (
                    then[name].device, then[name].dtype, then[name].shape,
                )  # fmt: skip
                assert device == "meta" or torch.equal(tensor, then[name])


def test_there_may_be_none() -> None:
    sender = Sender()
    assert broadcast_window(sender, None) is None  # type: ignore[arg-type]
