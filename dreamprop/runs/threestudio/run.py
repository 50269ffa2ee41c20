"""One training run of a threestudio system: built, solved, tested and summed up."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dreamprop.config.loader import InputError
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import destroy_process_group
from dreamprop.errors import RankFailed
from dreamprop.runs import broadcast, loop
from dreamprop.runs.callbacks import StopOnSignal
from dreamprop.runs.outcome import Outcome
from dreamprop.runs.recording import Recording, recording
from dreamprop.runs.stops import STOPS, tell, trace
from dreamprop.runs.summary import summarize
from dreamprop.runs.threestudio.callbacks import HandOver, PurityWatch, Report
from dreamprop.runs.threestudio.command import command
from dreamprop.runs.threestudio.session import Session, prompt_of
from dreamprop.runs.threestudio.views import Shown, read_views
from dreamprop.runs.window_log import open_windows
from dreamprop.solver import audit
from dreamprop.solver.window import Window
from dreamprop.solver.window_choice import Windows, as_windows
from dreamprop.state import State, to
from dreamprop.threestudio.checkpoint import placed
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.lightning_loop import solved
from dreamprop.threestudio.refusals import theirs
from dreamprop.threestudio.system import Threestudio
from dreamprop.utils import atomic_io
from dreamprop.utils.signals import Guard


class Run:
    """One training run of a config, into the trial folder that it names.

    Args:
        given: the command line, its paths absolute.
        studio: threestudio's config.
        settings: how far the run goes, and in which way.
        device: where.
        communicator: the processes that share the windows; the first one writes, prints, validates and tests.
        seed: of the draws of the steps; the config's by default, whose seed is that of the weights in any case.
        compared: the run is one of a comparison: it takes its way once before its first step, so that what happens
            only the first time is not on its clock, and keeps the pictures of its test.
    """

    def __init__(
        self,
        given: Namespace,
        studio: Any,
        settings: loop.RunSettings,
        device: torch.device,
        communicator: Communicator,
        *,
        seed: int | None = None,
        compared: bool = False,
    ) -> None:
        self.communicator, self.lead = communicator, communicator.rank == 0
        self.given, self.studio, self.settings = given, studio, settings
        self.device, self.compared = device, compared
        self.seed = int(studio.seed) if seed is None else seed
        self.place = Path(studio.trial_dir)
        # Lightning takes SIGTERM for itself, and would look at it only when a solve returns: opened around each
        self._guard = Guard(together=communicator.size > 1)
        self._open = ExitStack()
        self._record: Recording | None = None
        self._callbacks: list[loop.Callback] = []
        self._begun = False
        """Whether the system was found to be a chain; what is raised from there on is not about what was given."""
        self._views = Shown()

    def train(self) -> int:
        """Train and test; an interrupted run is saved.

        Returns:
            The exit status: 0, or 1 where something ended the run.

        Raises:
            InputError: what was given is wrong.
        """
        try:
            self._fit()
        except (*STOPS, NotAChain) as stop:
            if self.lead:
                self._save(stop)
            return 1
        summary = self._test()
        if summary is not None and summary["audit"] is not None and not self.settings.sequential:
            print(audit.line(summary["audit"]))
        return 0

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
        summary, shown = self._test(), self._views
        if summary is None or self._record is None:
            return None
        log, state = self._record.log, to(self._state, "cpu")
        return Outcome(summary, log, state, shown.views, shown.turntable, shown.sheet, self._report.losses)

    def _fit(self) -> None:
        """Train to the last step."""
        made = self._made = Session(
            self.given.config, self.studio, self.device, self.communicator, training=True
        )
        if self.lead:
            atomic_io.make_folder(self.place)
            atomic_io.write_text(self.place / "cmd.txt", "python " + " ".join(sys.argv) + "\n")
            print(f"writing to {self.place}")
        trainer, system = made.trainer, made.system
        with Guard(), self._open, theirs(self.studio, lambda: self._begun):
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
        step, last = trainer.global_step, self.settings.num_steps
        if step > last:
            raise InputError(
                f"trainer.max_steps must be >= {step}, the step of the checkpoint, got {last}; raise it"
            )

    def _ready(self, process: Threestudio, state: State) -> None:
        """Before the first step: whether the system is a chain at all, and can be solved as asked."""
        settings, parallel = self.settings, self.settings.parallel
        loop.check(process, settings, self.communicator)
        strict, last = parallel.purity == "strict", settings.num_steps
        self._purity = PurityWatch(process, strict, parallel.purity_tolerance, last, self.communicator)
        found = self._purity.check(state)
        self._begun = True
        if self.compared:
            target = min(state.step + settings.warm_up, last)
            self._run(process, Window((state,)), target, windows=as_windows(settings.warm_up))
            process.commit(state)
            process.logged.clear()
        self._process = process
        if self.lead:
            if found.pure:
                print(found.line())
            self._record = self._open.enter_context(recording(self.place, state.step, settings, self.device))
        every = int(self.studio.trainer.get("log_every_n_steps", 50))
        self._report = Report(process, self._made.trainer.loggers, every, self.lead)
        self._windows = open_windows(settings.window, self.communicator, self.place, state.step)
        own = self._record.callbacks if self._record else ()
        self._callbacks = [self._report, *own, StopOnSignal(self._guard), self._purity]

    def _solve(
        self, process: Threestudio, begin: Window, target: int, accept: Callable[[Window], None]
    ) -> None:
        """Solve up to a step at which Lightning has something to do."""
        callbacks = [HandOver(accept, target), *self._callbacks]
        with self._guard:
            self._state = self._run(process, begin, target, callbacks, windows=self._windows)

    def _run(
        self,
        process: Threestudio,
        begin: Window,
        target: int,
        callbacks: Sequence[loop.Callback] = (),
        *,
        windows: Windows,
    ) -> State:
        """The state at a step, in the way of this run."""
        return loop.run(
            process,
            begin,
            self.settings,
            self.communicator,
            callbacks,
            guard=self._guard,
            windows=windows,
            stop=target,
        )

    def _share(self, state: State) -> State:
        """What the first process's validation has left, on all of them."""
        if self.communicator.size == 1:
            return state
        shared = broadcast.broadcast_window(self.communicator, Window((state,)))
        assert shared is not None
        return placed(shared.states[0], state)

    def _test(self) -> dict[str, Any] | None:
        """Test what was trained; the summary of the run, on the first process."""
        # Lightning would wait for the others in everything that the first process now does alone
        destroy_process_group()
        if self._record is None:
            return None
        summary = self._summary(self._record)
        atomic_io.write_json(self.place / "summary.json", summary)
        if self.compared:
            # callbacks are called before the system's own end of the test, which may remove the pictures
            self._made.on(on_test_epoch_end=self._keep_views)
        self._made.trainer.test(self._made.system, datamodule=self._made.data)
        return summary

    def _keep_views(self, *_: Any) -> None:
        self._views = read_views(self.place / "save")

    def _summary(self, record: Recording) -> dict[str, Any]:
        """The numbers of the run, and what only runs of threestudio's systems have."""
        summary = summarize(
            self._process, self._state, self.settings, record, self.communicator, self._windows,
            prompt=prompt_of(self.studio), method=str(self.studio.system_type), seed=self.seed,
        )  # fmt: skip
        if summary["seconds"] is not None:
            summary["seconds"] |= {"purity": self._purity.seconds}
        return summary | {
            "parallel": {"window": 1} if self.settings.sequential else asdict(self.settings.parallel)
        }

    def _save(self, stop: BaseException) -> None:
        """Keep what was accepted, and say how to go on."""
        if isinstance(stop, RankFailed):
            kind, _, line = stop.traceback.rpartition("\n")[2].partition(": ")
            if kind.endswith(NotAChain.__name__):  # a sentence already
                stop = NotAChain(line)
        trace(stop)
        if not self._begun:
            print(f"{stop}; no step was taken", file=sys.stderr)
            return
        kept = (self.place / "ckpts" / f"stopped-step={self._made.trainer.global_step}.ckpt").resolve()
        self._made.trainer.save_checkpoint(kept)
        if isinstance(stop, NotAChain):  # it would stop there again
            print(f"{stop}; saved {kept}", file=sys.stderr)
        else:
            tell(stop, f"saved {kept}", command(self.given, self.communicator.size, kept))
