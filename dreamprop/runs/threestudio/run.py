"""One training run of a threestudio system: built, solved, tested and summed up."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import dreamprop as dp
from dreamprop.config.loader import InputError
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.layout import REPLICATED
from dreamprop.distributed.process_group import destroy_process_group
from dreamprop.errors import RankFailed
from dreamprop.runs import broadcast, parallel
from dreamprop.runs.config import ParallelConfig
from dreamprop.runs.empty_scene import Emptiness
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.outcome import Outcome
from dreamprop.runs.progress import Bar
from dreamprop.runs.stops import STOPS
from dreamprop.runs.summary import versions
from dreamprop.runs.threestudio.command import command
from dreamprop.runs.threestudio.session import Session, prompt_of
from dreamprop.runs.threestudio.views import Shown, read_views
from dreamprop.solver import audit
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import State, to
from dreamprop.threestudio.checkpoint import placed
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.lightning_loop import solved
from dreamprop.threestudio.purity import Purity, PurityMonitor
from dreamprop.threestudio.refusals import theirs
from dreamprop.threestudio.system import Threestudio
from dreamprop.utils import atomic_io
from dreamprop.utils.peak_memory import Peak
from dreamprop.utils.signals import Guard, Interrupted

LOSS = "train/loss"
"""How threestudio's systems begin the names of the losses that they log."""


class Run:
    """One training run of a config, into the trial folder that it names.

    Args:
        given: the command line, its paths absolute.
        studio: threestudio's config.
        block: `parallel` of the config: how the chain is solved.
        device: where.
        communicator: the processes that share the windows; the first one writes, prints, validates and tests.
        sequential: step by step.
        seed: of the draws of the steps; the config's by default, whose seed is that of the weights in any case.
        compared: the run is one of a comparison: it takes its way once before its first step, so that what happens
            only the first time is not on its clock, and keeps the pictures of its test.
    """

    def __init__(
        self,
        given: Namespace,
        studio: Any,
        block: ParallelConfig,
        device: torch.device,
        communicator: Communicator,
        *,
        sequential: bool = False,
        seed: int | None = None,
        compared: bool = False,
    ) -> None:
        self.communicator, self.lead = communicator, communicator.rank == 0
        self.given, self.studio, self.parallel = given, studio, block
        self.device, self.sequential, self.compared = device, sequential, compared
        self.seed = int(studio.seed) if seed is None else seed
        self.place = Path(studio.trial_dir)
        self._log: RoundLog | None = None
        self._bar: Bar | None = None
        self._open = ExitStack()
        self._purity: PurityMonitor | None = None
        """Once the first step is about to be taken."""
        self._peak = Peak(device)
        self._emptiness = Emptiness(0.0, "occupied cells")
        self._losses: dict[str, list[tuple[int, float]]] = {}
        self._views = Shown()

    def train(self) -> int:
        """Train and test; an interrupted run is saved."""
        try:
            self._fit()
        except (*STOPS, NotAChain) as stop:
            if self.lead:
                self._save(stop)
            return 1
        summary = self._test()
        if summary is not None and not self.sequential:
            print(audit.line(summary["audit"]))
        return 0

    def _save(self, stop: BaseException) -> None:
        """Keep what was accepted, and say how to go on."""
        if isinstance(stop, RankFailed):
            kind, _, line = stop.traceback.rpartition("\n")[2].partition(": ")
            if kind.endswith(NotAChain.__name__):  # a sentence already
                stop = NotAChain(line)
            else:
                print(stop.traceback, file=sys.stderr)
        kept = (self.place / "ckpts" / f"stopped-step={self._made.trainer.global_step}.ckpt").resolve()
        self._made.trainer.save_checkpoint(kept)
        if isinstance(stop, NotAChain):  # it would stop there again
            print(f"{stop}; saved {kept}", file=sys.stderr)
        else:
            print(
                f"{stop}\nsaved {kept}; go on with:\n  {command(self.given, self.communicator.size, kept)}",
                file=sys.stderr,
            )

    def outcome(self) -> Outcome | None:
        """Train and test; what came out, on the first process.

        Raises:
            Interrupted, NonFiniteDrift, RankFailed, RankLost, MemoryError: the run ended early.
            InputError: a step turned out to be no function of its state.
        """
        try:
            self._fit()
        except NotAChain as error:
            raise InputError(str(error)) from error
        summary = self._test()
        if summary is None or self._log is None:
            return None
        shown = self._views
        return Outcome(
            summary,
            self._log,
            to(self._state, "cpu"),
            shown.views,
            shown.turntable,
            shown.sheet,
            self._losses,
        )

    def _fit(self) -> None:
        """Train to the last step."""
        made = self._made = Session(
            self.given.config, self.studio, self.device, self.communicator, training=True
        )
        if self.lead:
            self.place.mkdir(parents=True, exist_ok=True)
            (self.place / "cmd.txt").write_text("python " + " ".join(sys.argv) + "\n")
            print(f"writing to {self.place}")
        trainer, system = made.trainer, made.system
        with Guard(), self._open, theirs(self.studio, lambda: self._purity is not None):
            solved(
                trainer,
                system,
                self.seed,
                self._solve,
                self._ready,
                agree=lambda step: int(self.communicator.all_gather_object(step)[0]),
                share=self._share,
            )
            trainer.fit(system, datamodule=made.data, ckpt_path=self.studio.resume)
        step, last = trainer.global_step, trainer.max_steps
        if step > last:
            raise InputError(
                f"trainer.max_steps must be >= {step}, the step of the checkpoint, got {last}; raise it"
            )

    def _test(self) -> dict[str, Any] | None:
        """Test what was trained; the summary of the run, on the first process."""
        # Lightning would wait for the others in everything that the first process now does alone
        destroy_process_group()
        if self._log is None:
            return None
        summary = self._summary(self._made.trainer.global_step)
        atomic_io.write_json(self.place / "summary.json", summary)
        if self.compared:
            # callbacks are called before the system's own end of the test, which may remove the pictures
            self._made.on(on_test_epoch_end=self._keep_views)
        self._made.trainer.test(self._made.system, datamodule=self._made.data)
        return summary

    def _keep_views(self, *_: Any) -> None:
        self._views = read_views(self.place / "save")

    def _ready(self, process: Threestudio, state: State) -> None:
        """Before the first step: whether the system is a chain at all, and can be solved as asked."""
        parallel.check(process, self.parallel, self.communicator)
        monitor = PurityMonitor(process, self.parallel.purity_tolerance)
        found = self._agreed(monitor.begin(state))
        self._heed(found, InputError)
        self._purity = monitor
        if self.compared:
            steps = 1 if self.sequential else self.parallel.window
            target = min(state.step + steps, self._made.trainer.max_steps)
            self._solution(process, Window((state,)), target, lambda round: None)
            process.commit(state)
            process.logged.clear()
        self._evaluator = (
            "serial"
            if self.sequential
            else parallel.evaluator_name(process, self.parallel, self.communicator)
        )
        if self.lead:
            if found.pure:
                print(found.line())
            self._log = self._open.enter_context(RoundLog(self.place, state.step))
            label = "sequential" if self.sequential else f"window {self.parallel.window}"
            bar = Bar(label, state.step, self._made.trainer.max_steps, rounds=len(self._log.rows))
            self._bar = self._open.enter_context(bar)

    def _agreed(self, found: Purity) -> Purity:
        """What the first process found that found something; all must end together."""
        told = self.communicator.all_gather_object(None if found.pure else asdict(found))
        return next((Purity(**known) for known in told if known is not None), found)

    def _heed(self, found: Purity, error: type[ValueError]) -> None:
        """End the run where a step is no function of its state; or say so, as `parallel.purity` has it."""
        if found.pure:
            return
        if self.parallel.purity == "strict":
            raise error(f"{found.line()}, or go on all the same with parallel.purity=warn")
        if self.lead:
            print(f"going on all the same (parallel.purity: warn): {found.line()}", file=sys.stderr)

    def _solution(
        self, process: Threestudio, begin: Window, target: int, after: Callable[[Round], None]
    ) -> State:
        """The state at a step, in the way of this run."""
        if self.sequential:
            skip = self.parallel.on_nonfinite
            return dp.solve_sequential(process, target, on_nonfinite=skip, state=begin, callback=after).state
        options = parallel.solve_options(process, self.parallel, self.communicator)
        last = int(self._made.trainer.max_steps)
        return dp.solve(process, last, state=begin, stop=target, callback=after, **options).state

    def _solve(
        self, process: Threestudio, begin: Window, target: int, accept: Callable[[Window], None]
    ) -> None:
        monitor, last = self._purity, int(self._made.trainer.max_steps)
        assert monitor is not None

        def after(round: Round) -> None:
            with guard.hold():
                stop, look = self.communicator.any(guard.asked is not None, monitor.due(round.step, last))
                if stop or look or round.step == target or round.layout is REPLICATED:
                    accept(round.window)
                self._report(process, round)
                if self._log is not None and self._bar is not None:
                    self._log.add(round)
                    self._bar.show(round)
                if stop:
                    raise Interrupted(guard.asked)
            if look:
                self._heed(self._agreed(monitor.look(round.state)), NotAChain)

        # Lightning takes SIGTERM for itself, and would look at it only when this returns
        with Guard(together=self.communicator.size > 1) as guard, self._peak:
            self._state = self._solution(process, begin, target, after)

    def _share(self, state: State) -> State:
        """What the first process's validation has left, on all of them."""
        if self.communicator.size == 1:
            return state
        shared = broadcast.broadcast_window(self.communicator, Window((state,)))
        assert shared is not None
        return placed(shared.states[0], state)

    def _report(self, process: Threestudio, round: Round) -> None:
        """What the accepted steps logged, to the trainer's loggers; and whether anything is left to see."""
        every = int(self.studio.trainer.get("log_every_n_steps", 50))
        if self.lead and round.step and (occupied := process.occupied(round.carried_states[0])) is not None:
            self._emptiness.look(round.step, occupied)
        for log in process.take_log(round.step):
            t, metrics = log.step, log.metrics
            self._emptiness.rendered(t, not log.empty)
            for name, value in metrics.items():
                if name.startswith(LOSS):
                    self._losses.setdefault(name, []).append((t, value))
            if self.lead and metrics and (t + 1) % every == 0:
                for logger in self._made.trainer.loggers:
                    logger.log_metrics({**metrics, **process.stepper.rates(t), "epoch": 0}, step=t)

    def _summary(self, step: int) -> dict[str, Any]:
        assert self._log is not None
        rounds, block, alone = len(self._log.rows), self.parallel, self.sequential
        return {
            "prompt": prompt_of(self.studio),
            "method": str(self.studio.system_type),
            "steps": step,
            "rounds": rounds,
            "drifts": self._log.drifts,
            "speedup_rounds": step / rounds if rounds else 1.0,
            "wall_seconds": self._log.wall_seconds,
            "seconds_per_step": self._log.wall_seconds / max(step, 1),
            "window": 1 if alone else block.window,
            "tolerance": block.tolerance,
            "error_rule": block.error_rule,
            "evaluator": self._evaluator,
            "world_size": self.communicator.size,
            "layout": "replicated" if alone else block.layout,
            "sub_batch": None if alone else block.sub_batch,
            "skipped": self._log.skipped,
            "audit": audit.summary(self._log.audits),
            "seconds": self._log.laps | {"purity": self._purity.seconds if self._purity else 0.0},
            "peak_memory_bytes": self._peak.bytes,
            "parallel": {"window": 1} if alone else asdict(block),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "dtype": str(next(iter(self._state.params.values())).dtype).removeprefix("torch."),
            "seed": self.seed,
            "versions": versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
