"""Buffers that drifts write, at any step and of any type: none of it is lost, whatever was guessed and thrown away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dreamprop as dp
from dreamprop.adapters.buffers import moved
from dreamprop.process import Group
from dreamprop.rng import generator
from dreamprop.solver.buffers import UNIT
from dreamprop.state import BufferWrite, State

FLAGS, CELLS, SIZE = 4, 40, 3
"""One of four flags that differs is beyond any tolerance tried here: at least 1 / 4, in units of 0.1."""
DECAY, RATE = 0.9, 0.05


@dataclass(frozen=True)
class Event:
    """What one step writes."""

    flag: int | None
    """The flag that is turned: what it becomes depends on what it was."""
    set: tuple[int, bool] | None
    """A flag, and what it becomes."""
    count: int
    """Added to the counter."""
    restart: bool
    """Whether the second counter begins anew."""
    cells: tuple[int, ...]
    """Where the mask grows."""
    inner: bool
    """Whether another mask is turned there, and grows into its neighbours."""
    seen: float | None
    """What enters the running mean."""


EVENTS = st.builds(
    Event,
    flag=st.none() | st.integers(0, FLAGS - 1),
    set=st.none() | st.tuples(st.integers(0, FLAGS - 1), st.booleans()),
    count=st.sampled_from([0, 0, 0, 1, 5, -2]),
    restart=st.booleans(),
    cells=st.just(()) | st.lists(st.integers(0, CELLS - 1), max_size=6).map(tuple),
    inner=st.booleans(),
    seen=st.none() | st.floats(0.5, 1.5, width=32),
)
QUIET = Event(None, None, 0, False, (), False, None)
CHAINS = st.lists(st.one_of(st.just(QUIET), EVENTS), min_size=1, max_size=20)
HOW = {
    "events": CHAINS,
    "window": st.integers(1, 16),
    "tolerance": st.floats(0.3, 2),
    "seed": st.integers(0, 999),
}


def first() -> dict[str, Tensor]:
    return {
        "flags": torch.zeros(FLAGS, dtype=torch.bool),
        "total": torch.tensor(0),
        "since": torch.tensor(0, dtype=torch.int32),
        "mask": torch.zeros(CELLS, dtype=torch.bool),
        "living": torch.arange(CELLS) % 3 > 0,
        "mean": torch.ones(SIZE) + 0.25,
    }


def write(buffers: dict[str, Tensor], event: Event) -> None:
    """What a step does to the buffers it is given, in place."""
    if event.flag is not None:
        buffers["flags"][event.flag] ^= True
    if event.set is not None:
        buffers["flags"][event.set[0]] = event.set[1]
    buffers["total"] += event.count
    buffers["since"] += 1
    if event.restart:
        buffers["since"].zero_()
    buffers["mask"][list(event.cells)] = True
    if event.inner:
        buffers["living"][list(event.cells)] ^= True
        buffers["living"] |= buffers["living"].roll(1)
    if event.seen is not None:
        buffers["mean"].mul_(DECAY).add_((1 - DECAY) * event.seen)


def wanted(buffers: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """Where the parameters are pulled to: it depends on every kind of buffer."""
    turned = buffers["flags"].float().sum() - 0.5 * buffers["mask"].float().mean() + 0.1 * buffers["since"]
    return turned + buffers["mean"] + noise


class Noted(nn.Module):
    """Parameters, and buffers that the loss writes."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(SIZE))
        for name, buffer in first().items():
            self.register_buffer(name, buffer)


def wrapped(events: Sequence[Event], seed: int) -> dp.Process:
    module = Noted()

    def loss(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        buffers = dict(module.named_buffers())
        write(buffers, events[step])
        return (module.at - wanted(buffers, torch.randn(SIZE, generator=g))).square().sum()

    return dp.wrap(module, loss, torch.optim.Adam(module.parameters(), RATE), seed=seed)


class Written:
    """The same by hand, with plain gradient descent; a drift tells what it was given and what it left."""

    boundaries = ()

    def __init__(self, events: Sequence[Event], seed: int) -> None:
        self.events, self.seed = events, seed

    def init(self) -> State:
        return State({"at": torch.zeros(SIZE)}, {}, first(), 0)

    def drift(self, state: State) -> dp.Drift:
        buffers = {name: buffer.clone() for name, buffer in state.buffers.items()}
        write(buffers, self.events[state.step])
        noise = torch.randn(SIZE, generator=generator(self.seed, state.step))
        grad = 2 * (state.params["at"] - wanted(buffers, noise))
        writes = {n: BufferWrite(old, buffers[n]) for n, old in state.buffers.items()}
        return dp.Drift({"at": grad}, writes=writes)

    def update(self, state: State, drift: dp.Drift) -> State:
        writes = drift.writes
        buffers = {n: moved(b, writes[n].old, writes[n].new) for n, b in state.buffers.items()}
        params = {n: p - RATE * drift.grads[n] for n, p in state.params.items()}
        return State(params, {}, buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, Group]:
        return {"all": Group(("at",), RATE)}


@pytest.mark.parametrize("make", [wrapped, Written])
@settings(max_examples=40, deadline=None)
@given(**HOW)
def test_nothing_that_was_written_is_lost(
    make: Any, events: list[Event], window: int, tolerance: float, seed: int
) -> None:
    process = make(events, seed)
    expected = dp.solve_sequential(process, len(events)).state.buffers
    largest = 1.25  # of an entry of the mean

    def watch(done: dp.Round) -> None:
        nonlocal largest
        largest = max(largest, *(float(state.buffers["mean"].max()) for state in done.carried_states))

    got = dp.solve(process, len(events), window, tolerance, callback=watch).state.buffers
    for name in ("flags", "total", "since", "mask"):
        assert torch.equal(got[name], expected[name]), name
    # e' = DECAY e + (1 - DECAY) (v - guess), and a guess is accepted within off of the larger of the two
    off = tolerance * UNIT
    assert (got["mean"] - expected["mean"]).abs().max() <= off / (1 - off) * largest * SIZE**0.5


@pytest.mark.parametrize("make", [wrapped, Written])
@settings(max_examples=20, deadline=None)
@given(**HOW)
def test_a_unit_of_nothing_keeps_every_buffer_exact(
    make: Any, events: list[Event], window: int, tolerance: float, seed: int
) -> None:
    """Large masks that follow from what they were need it: a cell of many is else within the tolerance."""
    process = make(events, seed)
    expected = dp.solve_sequential(process, len(events)).state.buffers
    got = dp.solve(process, len(events), window, tolerance, buffer_units={"*": 1e-9}).state.buffers
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_switch_stays_on() -> None:
    """A loss that turns itself on at its first step, and is nothing before."""

    class Lamp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.tensor([3.0]))
            self.register_buffer("open", torch.tensor(False))

    def loss(module: nn.Module, step: int, g: torch.Generator) -> Tensor:
        if step == 0:
            module.open.fill_(True)
        return module.open * module.at.square().sum()

    module = Lamp()
    process = dp.wrap(module, loss, torch.optim.Adam(module.parameters(), 0.1))
    sequential = dp.solve_sequential(process, 24).state
    solution = dp.solve(process, 24, window=8)
    assert sequential.buffers["open"] and solution.state.buffers["open"]
    assert (solution.state.params["at"] - sequential.params["at"]).abs() < 0.1
    assert solution.stats.num_rounds < 12
