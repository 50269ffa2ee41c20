"""A drift is its tensors, by where they stand."""

from __future__ import annotations

import torch

import dreamprop as dp
from dreamprop.state import BufferWrite


def test_a_drift_is_rebuilt_from_its_tensors() -> None:
    t = [torch.full((), float(i)) for i in range(9)]
    drift = dp.Drift(
        {"a/b": t[0], "grid": t[1]},
        {"grid": t[2]},
        {"a/b": BufferWrite(t[3], t[4]), "occs": BufferWrite(t[5], t[6], t[7])},
        t[8],
        {"loss": t[0], "grad_norm": t[1]},
    )
    tensors = drift.tensors()
    assert len(tensors) == 2 + 1 + 5 + 1 + 2
    again = dp.Drift.from_tensors(dict(reversed(tensors.items())))
    assert again.tensors().keys() == tensors.keys()
    assert all(again.tensors()[path] is tensor for path, tensor in tensors.items())
    assert again.writes["a/b"].read is None and again.writes["occs"].read is t[7]


def test_gradients_and_what_a_process_adds_are_all_that_a_drift_needs() -> None:
    plain = dp.Drift({"grid": torch.ones(2)}, {"mean": torch.zeros(())})
    assert list(plain.tensors()) == [("grads", "grid"), ("aux", "mean")]
    assert plain.writes == {} and plain.grad_norm is None and plain.metrics == {}
    empty = dp.Drift.from_tensors({})
    assert empty.grads == {} and empty.tensors() == {}
