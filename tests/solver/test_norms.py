"""The errors of a round are the same numbers however states lie over processes, and however many threads there are."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier
from typing import Any, cast

import pytest
import torch

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.sharding import ShardedProcess
from dreamprop.optim import Adam, ParamGroup
from dreamprop.solver import audit, norms
from dreamprop.utils import foreach
from dreamprop.utils.exact_sum import partial_sums, total

SHAPES = {"table": (3, 1201), "scale": (), "few": (5,), "last": (777,)}
TYPES = {"table": torch.float32, "scale": torch.float32, "few": torch.float64, "last": torch.bfloat16}


class Elementwise(dp.Process):
    """A process as far as layouts look at one."""

    def elementwise(self, step: int) -> bool:
        return True


class Fleet:
    """Ranks that are threads of this process and tell each other things through a list."""

    def __init__(self, size: int) -> None:
        self.size, self.told, self.met = size, cast(list[Any], [None] * size), Barrier(size)

    def communicator(self, rank: int) -> Communicator:
        fleet = self

        class Member:
            size = fleet.size

            def all_gather_object(self, value: Any) -> list[Any]:
                fleet.told[rank] = value
                fleet.met.wait(10)
                told = list(fleet.told)
                fleet.met.wait(10)
                return told

        member: Any = Member()
        member.rank = rank
        return cast(Communicator, member)


def states(count: int, seed: int) -> list[dp.State]:
    g = torch.Generator().manual_seed(seed)
    optimizer = Adam([ParamGroup(tuple(SHAPES), 0.01)])
    found = []
    for step in range(count):
        params = {n: torch.randn(s, generator=g).exp().to(TYPES[n]) for n, s in SHAPES.items()}
        params["table"] = params["table"].t().contiguous().t()  # as some backward passes leave a gradient
        buffers = {"mean": torch.randn(7, generator=g)}
        found.append(dp.State(params, optimizer.init(params), buffers, step))
    return found


def measured(ranks: int) -> list[tuple[Any, ...]]:
    """What each of so many ranks finds: norms, gradients that are not finite, and an audit."""
    fleet = Fleet(ranks)
    groups = {
        "main": dp.Group(("table", "scale"), 0.1), "side": dp.Group(("few", "last", "mean"), None)
    }  # fmt: skip

    def work(rank: int) -> tuple[Any, ...]:
        chain = ShardedProcess(Elementwise(), fleet.communicator(rank))
        guesses, rolled = ([chain.shard(state) for state in states(4, seed)] for seed in (0, 1))
        whole = states(4, 2)
        whole[1].params["last"][700] = math.nan
        whole[1].params["scale"].fill_(math.inf)
        drifts = [dp.Drift(chain.shard(state).params) for state in whole]
        found = norms.measure(guesses, rolled, [groups] * 4, exact=True, layout=chain)
        bad = norms.nonfinite(drifts, rolled[0], chain)
        return (found, bad, audit.relative_difference(rolled[0], drifts[2], drifts[3], chain))

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(work, range(ranks)))


def alone() -> tuple[Any, ...]:
    """The same, of a process that keeps everything."""
    whole = states(4, 2)
    whole[1].params["last"][700] = math.nan
    whole[1].params["scale"].fill_(math.inf)
    drifts = [dp.Drift(state.params) for state in whole]
    groups = {
        "main": dp.Group(("table", "scale"), 0.1), "side": dp.Group(("few", "last", "mean"), None)
    }  # fmt: skip
    guesses, rolled = states(4, 0), states(4, 1)
    found = norms.measure(guesses, rolled, [groups] * 4, exact=True)
    bad = norms.nonfinite(drifts, rolled[0])
    return (found, bad, audit.relative_difference(rolled[0], drifts[2], drifts[3], norms.REPLICATED))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shards_have_the_norms_of_whole_states(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreach, "PIECE", 64)
    expected = alone()
    assert expected[1] == [None, "scale", None, None]
    for found in measured(ranks):
        assert found == expected


def test_the_number_of_threads_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides in which blocks tensors are walked over."""
    monkeypatch.setattr(foreach, "PIECE", 64)
    expected = alone()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert alone() == expected
    assert measured(2)[1] == expected


def test_norms_are_those_of_the_difference() -> None:
    """Against float64; sums of 2^15 squares in float32 are right to 1e-5 or better."""
    a, b = states(4, 0), states(4, 1)
    found = norms.measure(a, b, [{"all": dp.Group(tuple(SHAPES), None)}] * 4)
    for slot, (guess, now) in enumerate(zip(a[1:], b[:3], strict=True)):
        for name in SHAPES:
            off = (now.params[name] - guess.params[name]).double().square().sum()
            assert found[slot].error[name] == pytest.approx(float(off), rel=1e-5)
    for slot, (before, now) in enumerate(pairwise([a[0], *b[:3]])):
        moved = (now.params["table"] - before.params["table"]).double().square().sum()
        assert found[slot].moved["table"] == pytest.approx(float(moved), rel=1e-5)


def test_partial_sums_keep_the_sum_exactly() -> None:
    g = torch.Generator().manual_seed(0)
    terms = torch.randn(500, generator=g, dtype=torch.float64).mul(20).exp().tolist()
    assert total(terms) == math.fsum(reversed(terms)) != sum(terms)
    for cuts in ([0, 500], [0, 3, 499, 500], [0, 0, 250, 500]):
        parts = [partial_sums(terms[a:b]) for a, b in pairwise(cuts)]
        assert total(part for some in parts for part in some) == total(terms)
        assert all(len(some) < 10 for some in parts)
    assert partial_sums([]) == partial_sums([0.0]) == []
    assert partial_sums([1e308, 1e308]) == partial_sums([1.0, math.inf]) == [math.inf]
    assert math.isnan(partial_sums([math.nan, 1.0])[0])
