"""Batches that do not fit in memory are halved, once and for all, and nothing else changes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
import torch

import dreamprop as dp
from dreamprop.evaluate.distributed import deal
from dreamprop.evaluate.sub_batch import SmallerBatch
from dreamprop.state import equal
from tests.solver.chains import Toy, optimizer


class Small(Toy):
    """A device with room for so many states."""

    room = 3

    def drift_window(self, states: Sequence[dp.State]) -> list[dp.Drift]:
        self.tried.append(len(states))
        if len(states) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return [self.drift(state) for state in states]

    @property
    def tried(self) -> list[int]:
        self.__dict__.setdefault("_tried", [])
        return self.__dict__["_tried"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("evaluator", [dp.evaluate.batched, dp.evaluate.distributed(), "batched"])
def test_a_batch_that_does_not_fit_is_halved(evaluator: object) -> None:
    process = Small(optimizer("Adam"))
    with pytest.warns(SmallerBatch) as told:
        solution = dp.solve(process, 30, 8, 1.0, evaluator=evaluator)
    assert equal(solution.state, dp.solve(Toy(optimizer("Adam")), 30, 8, 1.0, evaluator="serial").state)
    assert process.tried[:2] == [8, 4] and max(process.tried[2:]) == 2, "8, then 4, then 2 from there on"
    assert [str(w.message).split()[0] for w in told] == ["8", "4"]
    assert "parallel.sub_batch=2 from the start" in str(told[-1].message)
    with warnings.catch_warnings():  # the next run begins with what was asked for
        warnings.simplefilter("error", SmallerBatch)
        with pytest.raises(SmallerBatch):
            dp.solve(process, 30, 8, 1.0, evaluator=evaluator)
        dp.solve(process, 30, 8, 1.0, evaluator=dp.evaluate.batched(sub_batch=3))


def test_one_state_that_does_not_fit_is_an_error_with_advice() -> None:
    process = Small(optimizer("Adam"))
    process.drift = lambda state: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))  # type: ignore
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallerBatch)
        with pytest.raises(
            MemoryError,
            match=r"one state must fit in memory, step 0 does not .*; lower data.width.* or parallel.window",
        ):
            dp.solve(process, 30, 4, evaluator=dp.evaluate.batched(sub_batch=1))


def test_batches_are_dealt_out_whole_and_evenly() -> None:
    for count in range(1, 20):
        for ranks in range(1, 9):
            even = deal(count, None, ranks)
            sizes = [b - a for batches in even for a, b in batches]
            assert sum(sizes) == count and max(sizes) - min(sizes) <= 1 and len(sizes) == min(count, ranks)
            for sub_batch in (1, 2, 3, 5):
                dealt = deal(count, sub_batch, ranks)
                flat = [batch for batches in dealt for batch in batches]
                assert flat == [(a, min(a + sub_batch, count)) for a in range(0, count, sub_batch)]
                assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
