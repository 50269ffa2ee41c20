"""What is sent of a drift is what the others do not have, and it arrives as it was, whatever device it was on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import dreamprop as dp
from dreamprop.distributed.sharding import ShardedState, ShardSpec
from dreamprop.evaluate import exchange
from dreamprop.state import BufferWrite

SLOTS = [[0], [1, 2]]
"""Of two ranks."""


class Sent(Exception):
    """Ends a rank where it would wait for the other."""


class Rank:
    """One of two ranks in one process: it first shows what it sends, and is then given what the other has sent."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.out: list[Tensor] = []
        self.coming: list[Tensor] | None = None

    def all_to_all(self, blocks: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        self.out = list(blocks)
        if self.coming is None:
            raise Sent
        assert [block.numel() for block in self.coming] == list(sizes)
        return self.coming

    def all_gather(self, block: Tensor) -> list[Tensor]:
        return self.all_to_all([block] * 2, [block.numel()] * 2)


def exchanged(work: Any) -> list[Any]:
    """What a collective gives each of two ranks: ``work(rank)``."""
    ranks = [Rank(0), Rank(1)]
    for rank in ranks:
        with pytest.raises(Sent):
            work(rank)
    for rank in ranks:
        rank.coming = [other.out[rank.rank] for other in ranks]
    return [work(rank) for rank in ranks]


def states(device: str, pieces: bool, rank: int) -> list[dp.State]:
    """Three guesses as a rank holds them: parameters on a device, buffers on the CPU."""
    found = []
    for step in range(3):
        params = {"grid": torch.arange(10.0) + step, "scale": torch.tensor(float(step))}
        buffers = {"mean": torch.full((4,), float(step)), "count": torch.tensor(step)}
        if pieces:
            shard = ShardSpec((("grid", (10,)), ("scale", ())), 2, 4)
            params = {n: shard.part(n, p, rank) for n, p in params.items()}
        placed = {n: p.to(device) for n, p in params.items()}
        found.append(
            ShardedState(placed, {}, buffers, step, shard) if pieces else dp.State(placed, {}, buffers, step)
        )
    return found


def drift_of(state: dp.State, device: str) -> dp.Drift:
    """A drift of everything that a drift may have."""
    step = state.step
    mean = state.buffers["mean"]
    return dp.Drift(
        {"grid": torch.arange(10.0, device=device) * step, "scale": torch.ones((), device=device)},
        {"flag": torch.tensor(step == 1), "image": torch.full((2, 2), float(step), device=device)},
        {
            "mean": BufferWrite(mean, mean + 1, mean - 1),
            "count": BufferWrite(torch.tensor(7), torch.tensor(8)),
        },
        torch.full((), float(step), device=device),
        {"loss": torch.tensor(0.5 * step)},
    )


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_drift_arrives_as_it_was(device: str, pieces: bool) -> None:
    with nullcontext() if device == "cpu" else FakeTensorMode():
        whole = states(device, False, 0)
        expected = [drift_of(state, device) for state in whole]
        held = [states(device, pieces, rank) for rank in range(2)]
        mine = [[drift_of(held[rank][i], device) for i in SLOTS[rank]] for rank in range(2)]
        specs = [
            [exchange.describe(d, held[rank][i]) for d, i in zip(mine[rank], SLOTS[rank], strict=True)]
            for rank in range(2)
        ]
        assert all(exchange.from_json(exchange.to_json(spec)) == spec for row in specs for spec in row)
        # the buffer of the guess is not sent, another one that a drift names is
        paths = [set(spec) for row in specs for spec in row]
        assert all(("writes", "mean", "old") not in p and ("writes", "count", "old") in p for p in paths)
        results = exchanged(lambda rank: exchange.share(rank, held[rank.rank], mine[rank.rank], specs, SLOTS))
        shard = ShardSpec((("grid", (10,)), ("scale", ())), 2, 4)
        for rank, found in enumerate(results):
            for state, drift, like in zip(held[rank], found, expected, strict=True):
                if state.step not in SLOTS[rank] or pieces:
                    assert drift.writes["mean"].old is state.buffers["mean"]
                tensors, wanted = drift.tensors(), like.tensors()
                assert tensors.keys() == wanted.keys()
                for path, tensor in tensors.items():
                    want = wanted[path]
                    if pieces and path[0] == "grads":
                        want = shard.part(path[1], want, rank)
                    assert (tensor.device, tensor.dtype, tensor.shape) == (
                        want.device,
                        want.dtype,
                        want.shape,
                    ), path
                    assert device == "meta" or torch.equal(tensor, want), path


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_state_in_pieces_is_brought_together(device: str) -> None:
    with nullcontext() if device == "cpu" else FakeTensorMode():
        held = [states(device, True, rank) for rank in range(2)]
        results = exchanged(lambda rank: exchange.bring(rank, held[rank.rank], SLOTS))
        whole = states(device, False, 0)
    for rank, found in enumerate(results):
        assert [state.step for state in found] == SLOTS[rank]
        for state in found:
            assert state.buffers is held[rank][state.step].buffers
            for name, value in whole[state.step].params.items():
                assert state.params[name].device == value.device and state.params[name].shape == value.shape
                assert device == "meta" or torch.equal(state.params[name], value)
