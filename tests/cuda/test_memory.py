"""Windows in a memory that has an end: batches are halved where they do not fit, and the loop holds little more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

import dreamprop as dp
from dreamprop.evaluate.sub_batch import SmallerBatch
from dreamprop.state import equal
from tests.cuda.chain import Chain

WORK = 1 << 28
"""Bytes that the evaluation of a state takes besides."""


class Hungry(Chain):
    """The same chain, whose batches take memory while they are evaluated."""

    def __init__(self, device: torch.device, take: Callable[[int], object]) -> None:
        super().__init__(device)
        self.take, self.tried = take, list[int]()

    def drift_window(self, states: Sequence[dp.State]) -> list[dp.Drift]:
        self.tried.append(len(states))
        work = self.take(len(states) * WORK)
        found = [self.drift(state) for state in states]
        del work
        return found


@contextmanager
def room(device: torch.device, size: int) -> Iterator[Callable[[int], object]]:
    """Lets so many bytes be taken: on a GPU by PyTorch's own cap, on a CPU as it would tell."""
    if device.type != "cuda":

        def told(asked: int) -> None:
            if asked > size:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {asked} bytes")

        yield told
        return
    torch.cuda.empty_cache()
    cap = torch.cuda.memory_reserved(device) + size
    torch.cuda.set_per_process_memory_fraction(cap / torch.cuda.get_device_properties(device).total_memory)
    try:
        yield lambda asked: torch.empty(asked, dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("make", [dp.evaluate.batched, dp.evaluate.distributed])
def test_a_batch_that_does_not_fit_is_halved(
    device: torch.device, make: Callable[..., dp.evaluate.Evaluator]
) -> None:
    expected = dp.solve(Chain(device), 16, 8, evaluator="serial").state
    with room(device, 3 * WORK) as take:
        process = Hungry(device, take)
        with pytest.warns(SmallerBatch):
            solution = dp.solve(process, 16, 8, evaluator=make())
    assert process.tried[:2] == [8, 4] and max(process.tried[2:]) == 2
    assert equal(solution.state, expected)


def test_not_even_one_state_fits(device: torch.device) -> None:
    with room(device, WORK // 2) as take:
        process = Hungry(device, take)
        process.drift = lambda state: (take(WORK), Chain.drift(process, state))[1]  # type: ignore[method-assign]
        with pytest.raises(MemoryError, match="the drift of one state must fit in memory"):
            dp.solve(process, 4, 1, evaluator=dp.evaluate.batched())


def test_a_window_of_8_holds_at_most_16_tensors(gpu: torch.device) -> None:
    # in tensors of the size of all parameters, when the evaluation of a window begins; benchmarks/engine.py counts the
    # same on a CPU
    count, held = 1 << 22, list[int]()
    before = torch.cuda.memory_allocated(gpu)

    class Watched(Chain):
        def drift(self, state: dp.State) -> dp.Drift:
            if len(held) * 8 == self.drifts:
                held.append(torch.cuda.memory_allocated(gpu) - before)
            self.drifts += 1
            return super().drift(state)

        drifts = 0

    dp.solve(Watched(gpu, count), 40, 8, float("inf"), evaluator="serial", audit=0)
    assert max(held[1:]) <= 16.5 * 4 * count
