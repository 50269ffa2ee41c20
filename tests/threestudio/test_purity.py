"""Memory that cannot be put back is found whenever it wakes, and named; what does no harm is let be."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.errors import InputError
from dreamprop.runs.config import ParallelConfig
from dreamprop.runs.loop import RunSettings
from dreamprop.runs.threestudio.run import Run
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import Drift, State, equal
from dreamprop.threestudio import purity
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.purity import PurityMonitor
from dreamprop.threestudio.system import Threestudio

from . import double
from .double import System

SEED, STEPS = 3, 40


def chain(system: Any) -> Threestudio:
    return Threestudio(system, double.loader(), seed=SEED)


def solved(process: Threestudio, **how: Any) -> tuple[State, PurityMonitor]:
    """A run that is looked at as the command line looks at one."""
    monitor, state = PurityMonitor(process), process.init()

    def refuse(found: Any) -> None:
        if not found.pure:
            raise NotAChain(found.line())

    def after(round: Round) -> None:
        if monitor.due(round.step, STEPS):
            refuse(monitor.look(round.state))

    refuse(monitor.begin(state))
    return dp.solve(process, STEPS, state=state, callback=after, **how).state, monitor


class Remembers(System):
    """Calls a function in each step, which may make of the loss what it likes."""

    def __init__(self, act: Callable[[Any, Any, int], Any]) -> None:
        super().__init__()
        self.act = act
        self.seen: list[float] = []
        self.known: dict[int, float] = {}
        self.own = torch.Generator().manual_seed(0)

    def training_step(self, batch: Any, index: int) -> Any:
        out = super().training_step(batch, index)
        return {"loss": self.act(self, out["loss"], index)}


def counts(system: Any, loss: Any, step: int) -> Any:
    if step >= 10:
        system.seen.append(0.0)
    return loss * (1 + len(system.seen))


def hides(system: Any, loss: Any, step: int) -> Any:
    system._count = getattr(system, "_count", 0) + (step >= 10)
    return loss * (1 + system._count)


def keeps_the_first(system: Any, loss: Any, step: int) -> Any:
    """What it found at a step when it was there first, which was a guess."""
    return loss * system.known.setdefault(step, float(1 + loss.detach().tanh()))


def keeps_some(system: Any, loss: Any, step: int) -> Any:
    """Writes in few steps, reads in all."""
    if step and step % 7 == 0:
        system.seen.append(float(loss.detach().tanh()))
    return loss * (1 + sum(system.seen))


def draws(system: Any, loss: Any, step: int) -> Any:
    return loss * (1 + torch.rand((), generator=system.own)) if step >= 10 else loss


def trains(system: Any, loss: Any, step: int) -> Any:
    if step >= 10:
        system.geometry.grid.scratch += 1.0  # a buffer that is not saved
    return loss * (1 + system.geometry.grid.scratch.sum())


def clamps(system: Any, loss: Any, step: int) -> Any:
    if step >= 10:
        system.background.weight.data.clamp_(-0.1, 0.1)
    return loss


FOUND = {
    counts: "steps also write seen",
    hides: "steps also write _count",
    keeps_the_first: "steps also write known",
    keeps_some: "steps also write seen",
    draws: "steps also write own",
    trains: "steps also write geometry.grid.scratch",
    clamps: "got background.weight written by the step itself",
}
EXACT, FAST = {"tolerance": 0}, {"tolerance": 1.0, "evaluator": "batched"}
CASES = [(act, how) for act in FOUND for how in (EXACT, FAST)]
# of the copies that a batch is evaluated on, each sees a step once: what it found there first does no harm
CASES.remove((keeps_the_first, FAST))


@pytest.mark.parametrize(
    ("act", "how"), CASES, ids=[f"{act.__name__}-{'fast' if how is FAST else 'exact'}" for act, how in CASES]
)
def test_memory_that_wakes_late_is_found(act: Any, how: Any) -> None:
    words = FOUND[act]
    with pytest.raises(NotAChain, match=words) as caught:
        solved(chain(Remembers(act)), window=4, **how)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("step ")
    step = int(line.split()[1].rstrip(":"))
    assert 1 <= step <= 19  # 16 steps, and what a round of 4 may go past them


class Averages(System):
    """An average of the parameters behind each step, as they are then; steps read it, if they are to."""

    def __init__(self, where: str, reads: bool) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros_like(self.background.weight))
        self._where, self._reads = where, reads
        if where == "part":
            self.geometry.encoding.update_step_end = self.follow  # type: ignore[method-assign]

    def follow(self, *_: Any) -> None:
        with torch.no_grad():
            self.average = 0.9 * self.average + 0.1 * self.background.weight

    def on_train_batch_end(self, *_: Any) -> None:
        if self._where == "system":
            self.follow()

    def training_step(self, batch: Any, index: int) -> Any:
        out = super().training_step(batch, index)
        if self._where == "before":
            self.follow()
        return {"loss": out["loss"] + self._reads * (self.average * self.background.weight).sum()}


@pytest.mark.parametrize("reads", [False, True])
def test_what_follows_the_step_must_not_need_it(reads: bool) -> None:
    """Here it is called in front of the optimiser's step: an average would be one step late."""
    with pytest.raises(NotAChain, match=r"got another average from Averages.on_train_batch_end") as caught:
        solved(chain(Averages("system", reads)), window=4)
    assert "\n" not in str(caught.value)
    state, _ = solved(chain(Averages("before", reads)), window=4, tolerance=0)
    system = Averages("before", reads)
    double.fit(system, STEPS, seed=SEED)
    assert torch.equal(state.buffers["average"], system.average)


def test_looks_are_few_and_leave_no_trace() -> None:
    """Powers of two, the last, and where something changes for the first time."""
    looked: list[int] = []

    class Counted(PurityMonitor):
        def look(self, state: State) -> Any:
            looked.append(state.step)
            return super().look(state)

    process, plain = chain(System()), chain(System())
    monitor, state = Counted(process), process.init()
    assert monitor.begin(state).pure

    def after(round: Round) -> None:
        if monitor.due(round.step, STEPS):
            assert monitor.look(round.state).pure

    watched = dp.solve(process, STEPS, window=1, state=state, callback=after).state
    assert equal(watched, dp.solve_sequential(plain, STEPS).state)
    assert {1, 2, 4, 8, 16, 32, STEPS} <= set(looked)
    assert 7 in looked or 8 in looked  # batches are larger from step 7 on
    assert len(looked) <= 12
    assert process.take_log(STEPS) != [] and len(process.take_log(STEPS)) == 0
    assert monitor.seconds > 0


class Uncopyable(Remembers):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("no copies")


def test_a_system_that_cannot_be_copied_is_looked_at_too() -> None:
    with pytest.raises(NotAChain, match="must be a function of its state"):
        solved(chain(Uncopyable(counts)), window=4)
    solved(chain(Uncopyable(lambda system, loss, step: loss)), window=4)


def test_noise_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sums come in any order, as on a GPU, only what stands out of that is memory."""
    noise = torch.Generator().manual_seed(0)

    def blurs(system: Any, loss: Any, step: int) -> Any:
        for parameter in system.parameters():
            if parameter.requires_grad and step >= 3:
                loss = loss + 0.1 * (torch.randn(parameter.shape, generator=noise) * parameter).sum()
        return loss

    monkeypatch.setattr(purity, "_floor", lambda tensor, tolerance: tolerance)
    solved(chain(Remembers(blurs)), window=4)
    monkeypatch.setattr(purity, "NOISE", 0.0)
    with pytest.raises(NotAChain, match="what it depends on was not found"):
        solved(chain(Remembers(blurs)), window=4)
    monkeypatch.undo()
    monkeypatch.setattr(purity, "_floor", lambda tensor, tolerance: tolerance)
    with pytest.raises(NotAChain, match="steps also write seen"):
        # one by one: the system itself has counted far more than the copy that looks at it
        noisy = Remembers(lambda *step: blurs(step[0], counts(*step), step[2]))
        solved(chain(noisy), window=3, evaluator="serial")


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda")  # type: ignore[assignment]


@pytest.mark.parametrize(("tolerance", "differs"), [(0.49, ["a"]), (0.51, [])])
def test_on_a_gpu_evaluations_may_differ_by_as_much_as_is_asked_for(
    tolerance: float, differs: list[str]
) -> None:
    monitor = PurityMonitor(chain(System()), tolerance)
    exact = [Drift({"a": torch.tensor([x])}) for x in (2.0, 3.0)]
    assert monitor._differences(*exact) == ["a"], "on a CPU by nothing"
    drifts = [Drift({"a": drift.grads["a"].as_subclass(OnGpu)}) for drift in exact]
    assert monitor._differences(*drifts) == differs


def test_a_run_goes_on_and_says_so_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def go(how: str, act: Callable[[Any, Any, int], Any]) -> str:
        studio = OmegaConf.create({"trial_dir": str(tmp_path), "seed": SEED, "trainer": {}})
        settings = RunSettings(ParallelConfig(purity=how, window=4), 16)
        run = Run(Namespace(), studio, settings, torch.device("cpu"), Communicator())
        run._made = SimpleNamespace(trainer=SimpleNamespace(loggers=[]))  # type: ignore[assignment]
        process, reached = chain(Remembers(act)), []
        with run._open:
            run._ready(process, process.init())
            run._solve(process, Window((process.init(),)), 16, reached.append)
        assert reached[-1].states[0].step == 16
        return capsys.readouterr().err

    def always(system: Any, loss: Any, step: int) -> Any:
        system.seen.append(0.0)
        return loss * len(system.seen)

    for act, error in ((always, InputError), (counts, NotAChain)):  # at the start, and later
        with pytest.raises(
            error, match=r"run it in threestudio, or go on all the same with parallel\.purity=warn"
        ):
            go("strict", act)
        said = go("warn", act)
        assert "going on all the same (parallel.purity: warn): " in said and "steps also write seen" in said
    assert "going on" not in go("warn", lambda system, loss, step: loss)
