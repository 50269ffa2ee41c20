"""The loop of a run: what its callbacks see, in which order, and on which processes."""

from __future__ import annotations

import os
import signal
from dataclasses import fields
from inspect import signature
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs import loop
from dreamprop.runs.callbacks import Checkpointing, Preview, StopOnSignal
from dreamprop.runs.config import CheckpointConfig, ParallelConfig
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import State, equal
from dreamprop.utils.signals import Guard, Interrupted
from tests.cli.toy import Toy, ToyData, ToySystem


def toy() -> Toy:
    return Toy(ToyData(), ToySystem(), max_steps=24, device=torch.device("cpu"))


def run(settings: loop.RunSettings, *callbacks: loop.Callback, guard: Guard, **options: Any) -> State:
    process = toy()
    begin = options.pop("begin", None) or Window((process.init(),))
    return loop.run(process, begin, settings, Communicator(), callbacks, guard=guard, **options)


class Diary(loop.Callback):
    """Writes down what it is told."""

    def __init__(self, every: int = 0) -> None:
        self.told: list[str] = []
        self.windows: list[Window] = []
        self.every = every

    def due(self, round: Round) -> bool | None:
        return round.round % self.every == 0 if self.every else None

    def on_begin(self, window: Window) -> None:
        self.told.append("begin")

    def on_window(self, window: Window) -> None:
        self.told.append("window")
        self.windows.append(window)

    def on_round(self, round: Round) -> None:
        self.told.append("round")

    def on_due(self, round: Round) -> None:
        self.told.append("due")

    def on_end(self, state: State) -> None:
        self.told.append("end")


@pytest.mark.parametrize("sequential", [True, False])
def test_callbacks_see_every_round_in_order(sequential: bool) -> None:
    diary, plain = Diary(every=2), Diary()
    settings = loop.RunSettings(ParallelConfig(window=4), 6, sequential)
    with Guard() as guard:
        state = run(settings, diary, plain, guard=guard)
    rounds = plain.told.count("round")
    assert plain.told == ["begin", *(["window", "round"] * rounds), "end"] and rounds <= 6
    each = [["window", "round", *(["due"] if i % 2 == 0 else [])] for i in range(rounds)]
    assert diary.told == ["begin", *(word for words in each for word in words), "end"]
    assert equal(diary.windows[-1].states[0], state) and state.step == 6
    plainly = dp.solve_sequential(toy(), 6) if sequential else dp.solve(toy(), 6, 4)
    assert equal(state, plainly.state)


def test_a_run_stops_on_its_way_exactly_and_goes_on() -> None:
    settings, diary = loop.RunSettings(ParallelConfig(window=4, tolerance=0), 24), Diary()
    with Guard() as guard:
        whole = run(settings, guard=guard)
        assert run(settings, diary, guard=guard, stop=11).step == 11
        assert equal(run(settings, guard=guard, begin=diary.windows[-1]), whole)


def test_what_is_saved_and_drawn_when() -> None:
    saved, drawn = [], []
    begin = Window((toy().init(),))
    config = CheckpointConfig(every_n_train_steps=10, train_time_interval=0)
    keep = Checkpointing(lambda window: saved.append(window.states[0].step), config, begin, lead=True)
    preview = Preview(lambda state: drawn.append(state.step), 8, lead=True)
    idle = Checkpointing(lambda window: saved.append(-1), config, begin, lead=False)
    settings = loop.RunSettings(ParallelConfig(), 24, sequential=True)
    with Guard() as guard:
        run(settings, keep, preview, idle, guard=guard)
    assert saved == [10, 20, 24] and drawn == [8, 16]
    keep.save()
    assert saved == [10, 20, 24], "what is saved is not saved again"


def test_a_signal_ends_a_run_between_two_rounds() -> None:
    class Signals(loop.Callback):
        def on_round(self, round: Round) -> None:
            if round.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    diary, settings = Diary(), loop.RunSettings(ParallelConfig(), 24, sequential=True)
    with pytest.raises(Interrupted), Guard() as guard:
        run(settings, diary, Signals(), StopOnSignal(guard), guard=guard)
    assert diary.windows[-1].states[0].step in (5, 6) and "end" not in diary.told


def test_defaults_and_words_are_those_of_the_solver() -> None:
    given = signature(dp.solve).parameters
    config = ParallelConfig()
    shared = {f.name for f in fields(config)} & given.keys() - {"evaluator", "buffer_units"}
    assert {"window", "tolerance", "decay", "audit"} <= shared
    assert {name: getattr(config, name) for name in shared} == {name: given[name].default for name in shared}
    assert set(loop.PLAIN) == shared - {"window"} | {"buffer_units"}
