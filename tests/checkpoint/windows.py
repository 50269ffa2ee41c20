"""Windows to save, and whether two of them are the same to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.solver.window import Window
from tests.solver.chains import Growing, optimizer

SMALL = dp.State({"a": torch.zeros(9)}, {}, {}, 1)
"""A state that is quickly saved."""


def same(a: Window, b: Window) -> bool:
    """Whether two windows are the same to the last bit, the order of names and the lie of tensors included."""

    def named(state: dp.State) -> list[tuple[str, Tensor]]:
        return [item for part in (state.params, state.moments, state.buffers) for item in part.items()]

    def bits(x: Tensor) -> Tensor:
        return x.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8) if x.numel() else x

    pairs = list(zip(a.states, b.states, strict=False))
    return (
        len(a.states) == len(b.states)
        and a.threshold == b.threshold
        and all(type(x.step) is type(y.step) and x.step == y.step for x, y in pairs)
        and all([n for n, _ in named(x)] == [n for n, _ in named(y)] for x, y in pairs)
        and all(
            s.dtype == t.dtype and s.shape == t.shape and torch.equal(bits(s), bits(t))
            for x, y in pairs
            for (_, s), (_, t) in zip(named(x), named(y), strict=True)
        )
    )


def rounds(num_steps: int = 25, window: int = 5, **how: Any) -> list[Window]:
    """What the rounds of a run leave."""
    found: list[Window] = []
    process = Growing(optimizer("Adam"), torch.float32)
    dp.solve(process, num_steps, window, **how, callback=lambda round: found.append(round.window))
    return found
