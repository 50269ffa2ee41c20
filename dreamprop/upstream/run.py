"""One run of a threestudio system: built, solved, tested and summed up."""

import importlib
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import dreamprop as dp
from dreamprop import audit, crew, files, parallel
from dreamprop.config import InputError
from dreamprop.interrupt import Guard, Interrupted
from dreamprop.outcome import Outcome
from dreamprop.peak import Peak
from dreamprop.progress import Bar
from dreamprop.ranks import RankFailed, Ranks, part
from dreamprop.roundlog import RoundLog
from dreamprop.run import STOPS
from dreamprop.settings import ParallelConfig
from dreamprop.shards import WHOLE
from dreamprop.solution import Round
from dreamprop.state import State, to
from dreamprop.summary import versions
from dreamprop.threestudio import build
from dreamprop.threestudio.checkpoint import status
from dreamprop.threestudio.fit import solved
from dreamprop.threestudio.purity import check
from dreamprop.threestudio.system import Threestudio
from dreamprop.upstream.errors import theirs, told
from dreamprop.upstream.trainer import make_trainer
from dreamprop.upstream.views import Shown, read_views

STAGES = ("validation", "test", "predict")
LOSS = "train/loss"
"""How threestudio's systems begin the names of the losses that they log."""


class Run:
    """One run of a config, into the trial folder that it names.

    Args:
        path: of the config.
        studio: threestudio's config.
        block: `parallel` of the config: how the chain is solved.
        device: where.
        ranks: the processes that share the windows; the first one writes, prints, validates and tests.
        sequential: step by step.
        seed: of the draws of the steps; the config's by default, whose seed is that of the weights in any case.
        compared: the run is one of a comparison: it takes its way once before its first step, so that what happens
            only the first time is not on its clock, and keeps the pictures of its test.
    """

    def __init__(
        self,
        path: Path,
        studio: Any,
        block: ParallelConfig,
        device: torch.device,
        ranks: Ranks,
        *,
        sequential: bool = False,
        seed: int | None = None,
        compared: bool = False,
    ) -> None:
        self.ranks, self.lead = ranks, ranks.rank == 0
        self.path, self.studio, self.parallel = path, studio, block
        self.device, self.sequential, self.compared = device, sequential, compared
        self.seed = int(studio.seed) if seed is None else seed
        self.place = Path(studio.trial_dir)
        self._begun = False
        self._log: RoundLog | None = None
        self._peak = Peak(device)
        self._losses: dict[str, list[tuple[int, float]]] = {}
        self._views = Shown()

    def train(self) -> int:
        """Train and test; an interrupted run is saved."""
        try:
            self._fit()
        except STOPS as stop:
            if self.lead:
                if isinstance(stop, RankFailed):
                    print(stop.told, file=sys.stderr)
                kept = self.place / "ckpts" / f"stopped-step={self._trainer.global_step}.ckpt"
                self._trainer.save_checkpoint(kept)
                print(f"{stop}\nsaved {kept}; go on with:\n  --train resume={kept}", file=sys.stderr)
            return 1
        self._test()
        return 0

    def outcome(self) -> Outcome | None:
        """Train and test; what came out, on the first process.

        Raises:
            Interrupted, NonFiniteDrift, RankFailed, RankLost, MemoryError: the run ended early.
        """
        self._fit()
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

    def show(self, verb: str) -> int:
        """Validate, test or export."""
        self._make(training=False)
        system, resume = self._system, self.studio.resume
        with theirs():
            if resume is not None:  # Lightning restores neither by itself outside fit
                system.set_resume_status(*status(resume))
        begun: list[int] = []
        self._on(**{f"on_{stage}_batch_start": lambda *_: begun.append(1) for stage in STAGES})
        trainer = self._trainer
        run = {"validate": trainer.validate, "test": trainer.test, "export": trainer.predict}[verb]
        with theirs(lambda: bool(begun)):
            run(system, datamodule=self._data, ckpt_path=resume)
        return 0

    def _make(self, training: bool) -> None:
        with theirs():
            made = crew.together(self.ranks, lambda: told(lambda: build.make(self.studio)))
            self._data, self._system = made
            self._trainer = make_trainer(
                self.path, self.studio, self.device, self._system, training=training, lead=self.lead
            )

    def _on(self, **hooks: Callable[..., Any]) -> None:
        """Have the trainer call functions where Lightning calls its callbacks."""
        callbacks = importlib.import_module("pytorch_lightning.callbacks")
        self._trainer.callbacks.append(callbacks.LambdaCallback(**hooks))

    def _fit(self) -> None:
        """Train to the last step."""
        self._make(training=True)
        if self.lead:
            self.place.mkdir(parents=True, exist_ok=True)
            (self.place / "cmd.txt").write_text("python " + " ".join(sys.argv) + "\n")
            print(f"writing to {self.place}")
        trainer, system = self._trainer, self._system
        solved(
            trainer, system, self.seed, self._solve, self._ready, lambda step: int(self.ranks.tell(step)[0])
        )
        try:
            with Guard(), theirs(lambda: self._begun):
                trainer.fit(system, datamodule=self._data, ckpt_path=self.studio.resume)
        finally:
            if self._log is not None:
                self._log.__exit__(*sys.exc_info())

    def _test(self) -> dict[str, Any] | None:
        """Test what was trained; the summary of the run, on the first process."""
        part()  # Lightning would wait for the others in everything that the first process now does alone
        if self._log is None:
            return None
        summary = self._summary(self._trainer.global_step)
        files.write_json(self.place / "summary.json", summary)
        if self.compared:
            # callbacks are called before the system's own end of the test, which may remove the pictures
            self._on(on_test_epoch_end=self._keep_views)
        self._trainer.test(self._system, datamodule=self._data)
        return summary

    def _keep_views(self, *_: Any) -> None:
        self._views = read_views(self.place / "save")

    def _ready(self, process: Threestudio, state: State) -> None:
        """Before the first step: whether the system is a chain at all, and can be solved as asked."""
        parallel.check(process, self.parallel, self.ranks)
        found = check(process, state)
        if self.lead:
            print(found.line())
        if not found.pure:
            raise InputError(found.line())
        self._begun = True
        if self.compared:
            steps = 1 if self.sequential else self.parallel.window
            self._solution(process, state, min(state.step + steps, self._trainer.max_steps))
            process.commit(state)
            process.logged.clear()
        self._evaluator = (
            "serial" if self.sequential else parallel.evaluator_name(process, self.parallel, self.ranks)
        )
        self._log = RoundLog(self.place, state.step) if self.lead else None

    def _solution(
        self,
        process: Threestudio,
        state: State,
        target: int,
        after: Callable[[Round], None] | None = None,
    ) -> State:
        """The state at a step, in the way of this run."""
        if self.sequential:
            skip = self.parallel.on_nonfinite
            return dp.solve_sequential(process, target, on_nonfinite=skip, state=state, callback=after).state
        options = parallel.solve_options(process, self.parallel, self.ranks)
        return dp.solve(process, target, state=state, callback=after, **options).state

    def _solve(
        self, process: Threestudio, state: State, target: int, accept: Callable[[State], None]
    ) -> State:
        label = "sequential" if self.sequential else f"window {self.parallel.window}"

        def after(round: Round) -> None:
            with guard.hold():
                (stop,) = self.ranks.any(guard.asked is not None)
                if stop or round.parts is WHOLE:
                    accept(round.state)
                self._tell(process, round.step)
                if self._log is not None and bar is not None:
                    self._log.add(round)
                    bar.show(round)
                if stop:
                    raise Interrupted(guard.asked)

        shown = Bar(label, state.step, target, rounds=len(self._log.rows)) if self._log else nullcontext()
        # Lightning takes SIGTERM for itself, and would look at it only when this returns
        with Guard(together=self.ranks.size > 1) as guard, shown as bar, self._peak:
            self._state = self._solution(process, state, target, after)
        return self._state

    def _tell(self, process: Threestudio, step: int) -> None:
        """What the accepted steps logged, to the trainer's loggers."""
        every = int(self.studio.trainer.get("log_every_n_steps", 50))
        for t, metrics in process.take_log(step):
            for name, value in metrics.items():
                if name.startswith(LOSS):
                    self._losses.setdefault(name, []).append((t, value))
            if self.lead and metrics and (t + 1) % every == 0:
                for logger in self._trainer.loggers:
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
            "world_size": self.ranks.size,
            "layout": "replicated" if alone else block.layout,
            "sub_batch": None if alone else block.sub_batch,
            "skipped": self._log.skipped,
            "audit": audit.summary(self._log.audits),
            "seconds": self._log.laps,
            "peak_memory_bytes": self._peak.bytes,
            "parallel": {"window": 1} if alone else asdict(block),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "dtype": str(next(iter(self._state.params.values())).dtype).removeprefix("torch."),
            "seed": self.seed,
            "versions": versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def prompt_of(studio: Any) -> str:
    """What is made; nothing where a picture says it."""
    return OmegaConf.select(studio, "system.prompt_processor.prompt", default="") or ""
