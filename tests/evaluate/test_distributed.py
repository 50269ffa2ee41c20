"""A distributed evaluator is a value that keeps the promises of the default path."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import dreamprop as dp
from dreamprop.evaluate.sub_batch import SmallerBatch
from dreamprop.state import equal
from tests.solver.chains import Toy, optimizer


class Rounding(Toy):
    """In a batch its drifts come out different in their last bits, as sums in another order do."""

    room = 8

    def drift_window(self, states: Sequence[dp.State]) -> list[dp.Drift]:
        if len(states) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        found = [self.drift(state) for state in states]
        return [replace(d, grads={n: g * (1 + 1e-6) for n, g in d.grads.items()}) for d in found]


@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_an_exact_run_is_the_sequential_one(layout: str) -> None:
    process = Rounding(optimizer("Adam"))
    process.elementwise = lambda step: True  # type: ignore[attr-defined]
    sequential = dp.solve_sequential(process, 16).state
    evaluator = dp.evaluate.distributed(layout=layout)
    assert equal(dp.solve(process, 16, 4, 0.0, evaluator=evaluator).state, sequential)
    assert equal(dp.solve(process, 16, 4, 0.0, evaluator="distributed").state, sequential)
    # what is asked for is done, and a batch shows
    asked = dp.evaluate.distributed(layout=layout, sub_batch=4)
    assert not equal(dp.solve(process, 16, 4, 1.0, evaluator=asked).state, sequential)


def test_what_one_run_learns_is_no_business_of_another() -> None:
    process = Rounding(optimizer("Adam"))
    process.room = 2
    evaluator = dp.evaluate.distributed()
    first = process.init()
    runs = [evaluator.start(process, first, False) for _ in range(2)]  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SmallerBatch)
        with pytest.raises(SmallerBatch):
            dp.solve(process, 8, 4, evaluator=evaluator)
    assert runs[0].communicator is not runs[1].communicator
    assert evaluator == dp.evaluate.distributed() and hash(evaluator) == hash(dp.evaluate.distributed())
    with pytest.raises(FrozenInstanceError):
        evaluator.sub_batch = 1  # type: ignore[misc]
