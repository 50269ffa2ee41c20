"""DreamFusion's losses: each counts, by its weight at the step, and the gradient is that of what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop.methods.config import LossConfig
from tests.methods.small_dreamfusion import make, walk


def test_weights_follow_the_step_of_the_state(folder: Path) -> None:
    """A weight that is 0 at one step and 1 at another: the same process, asked in any order."""
    scheduled = make(folder, loss=LossConfig(lambda_sparsity=[0, 0.0, 1.0, 1]))
    never = make(folder, loss=LossConfig(lambda_sparsity=0.0))
    always = make(folder, loss=LossConfig(lambda_sparsity=1.0))
    start = never.init()
    later = replace(start, step=1)
    for state, twin in ((later, always), (start, never), (later, always)):
        a, b = scheduled.drift(state), twin.drift(state)
        assert all(torch.equal(a.grads[n], b.grads[n]) for n in a.grads)
    a, b = always.drift(start), never.drift(start)
    assert not all(torch.equal(a.grads[n], b.grads[n]) for n in a.grads)


@pytest.mark.parametrize("name", ["orient", "sparsity", "opaque", "tv"])
def test_each_loss_matters_and_is_finite(folder: Path, name: str) -> None:
    plain, with_loss = make(folder), make(folder, loss=LossConfig(**{f"lambda_{name}": 10.0}))
    state = walk(plain, 3)[-1]
    a, b = plain.drift(state), with_loss.drift(state)
    assert not torch.equal(a.grads["geometry.density"], b.grads["geometry.density"])
    assert all(torch.isfinite(g).all() for g in b.grads.values())


def test_gradient_is_that_of_the_written_loss(folder: Path) -> None:
    """The parameters' gradient against difference quotients of the same pictures times guidance's gradient."""
    process = make(folder, loss=LossConfig(lambda_sds=2.0, lambda_sparsity=0.0), data={"batch_size": 1})
    state = walk(process, 2)[-1]
    found = process.drift(state).grads["geometry.density"]
    seen: list[torch.Tensor] = []
    original = type(process.guidance).gradient

    def spy(self: Any, pictures: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        z, grad = original(self, pictures, *rest)
        seen[:] = [z.detach().double(), grad.double()]
        return z, grad

    type(process.guidance).gradient, restore = spy, original  # type: ignore[method-assign]
    try:
        process.drift(state)
        push = seen[1]
        place = tuple(int(i) for i in (found.abs() == found.abs().max()).nonzero()[0])
        values = []
        for sign in (1, -1):
            moved = state.params["geometry.density"].clone()
            moved[place] += sign * 1e-2
            process.drift(replace(state, params={**state.params, "geometry.density": moved}))
            values.append(float((seen[0] * push).sum()))
    finally:
        type(process.guidance).gradient = restore  # type: ignore[method-assign]
    assert 2.0 * (values[0] - values[1]) / 2e-2 == pytest.approx(found[place].item(), rel=2e-2)
