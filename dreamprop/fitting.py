"""A training run of a threestudio system: solved, looked at, logged, and saved whatever ends it."""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import dreamprop as dp
from dreamprop import crew, files, parallel
from dreamprop.config import InputError
from dreamprop.interrupt import Guard, Interrupted
from dreamprop.progress import Bar
from dreamprop.ranks import RankFailed, Ranks, part
from dreamprop.resume import started
from dreamprop.roundlog import RoundLog
from dreamprop.run import STOPS
from dreamprop.settings import ParallelConfig
from dreamprop.shards import WHOLE
from dreamprop.solution import Round
from dreamprop.state import State
from dreamprop.summary import versions
from dreamprop.threestudio.chain import NotAChain
from dreamprop.threestudio.checkpoint import placed
from dreamprop.threestudio.fit import solved
from dreamprop.threestudio.purity import Purity, PurityMonitor
from dreamprop.threestudio.system import Threestudio
from dreamprop.threestudio.words import theirs
from dreamprop.window import Window


class Fit:
    """One training run.

    Args:
        studio: threestudio's config.
        block: `parallel` of the config: how the chain is solved.
        device: where.
        given: the command line, its paths absolute.
        ranks: the processes that share the windows; the first one writes, prints, validates and tests.
    """

    def __init__(
        self, studio: Any, block: ParallelConfig, device: torch.device, given: Namespace, ranks: Ranks
    ) -> None:
        self.ranks, self.lead = ranks, ranks.rank == 0
        self.given, self.studio, self.parallel = given, studio, block
        self.device, self.sequential = device, bool(given.baseline)
        self.place = Path(studio.trial_dir)
        self._log: RoundLog | None = None
        self._bar: Bar | None = None
        self._open = ExitStack()
        self._loggers: list[Any] = []
        self._purity: PurityMonitor | None = None
        """Once the first step is about to be taken."""

    def __call__(self, trainer: Any, system: Any, data: Any) -> int:
        """Train, save, test; returns the exit status."""
        ranks, self._loggers = self.ranks, list(trainer.loggers)
        if self.lead:
            self.place.mkdir(parents=True, exist_ok=True)
            (self.place / "cmd.txt").write_text("python " + " ".join(sys.argv) + "\n")
            print(f"writing to {self.place}")
        try:
            with Guard(), self._open, theirs(self.studio, lambda: self._purity is not None):
                solved(
                    trainer,
                    system,
                    int(self.studio.seed),
                    self._solve,
                    self._ready,
                    agree=lambda step: int(ranks.tell(step)[0]),
                    share=self._share,
                )
                trainer.fit(system, datamodule=data, ckpt_path=self.studio.resume)
        except (*STOPS, NotAChain) as stop:
            if not self.lead:
                return 1
            if isinstance(stop, RankFailed):
                print(stop.told, file=sys.stderr)
            kept = (self.place / "ckpts" / f"stopped-step={trainer.global_step}.ckpt").resolve()
            trainer.save_checkpoint(kept)
            if isinstance(stop, NotAChain):  # it would stop there again
                print(f"{stop}; saved {kept}", file=sys.stderr)
            else:
                print(f"{stop}\nsaved {kept}; go on with:\n  {self._command(kept)}", file=sys.stderr)
            return 1
        part()  # Lightning would wait for the others in everything that the first process now does alone
        if not self.lead:
            return 0
        step, last = trainer.global_step, trainer.max_steps
        if step > last:
            raise InputError(
                f"trainer.max_steps must be >= {step}, the step of the checkpoint, got {last}; raise it"
            )
        if self._log is not None:
            files.write_json(self.place / "summary.json", self._summary(step))
        trainer.test(system, datamodule=data)
        return 0

    def _command(self, kept: Path) -> str:
        """The command that goes on from a checkpoint."""
        given = self.given
        words = [*started(self.ranks.size), "--config", str(given.config), "--train"]
        for flag in ("baseline", "verbose"):
            words += [f"--{flag}"] if getattr(given, flag) else []
        for name in ("threestudio", "device", "gpu"):
            value = getattr(given, name)
            words += [f"--{name}", str(value)] if value is not None else []
        more = [word for word in given.overrides if not word.startswith("resume=")]
        return shlex.join([*words, *more, f"resume={kept}"])

    def _ready(self, process: Threestudio, state: State) -> None:
        """Before the first step: whether the system is a chain at all, and can be solved as asked."""
        parallel.check(process, self.parallel, self.ranks)
        monitor = PurityMonitor(process)
        found = self._agreed(monitor.begin(state))
        if not found.pure:
            raise InputError(found.line())
        self._purity = monitor
        if self.lead:
            print(found.line())
            self._log = self._open.enter_context(RoundLog(self.place, state.step))
            label = "sequential" if self.sequential else f"window {self.parallel.window}"
            bar = Bar(label, state.step, self.studio.trainer.max_steps, rounds=len(self._log.rows))
            self._bar = self._open.enter_context(bar)

    def _agreed(self, found: Purity) -> Purity:
        """What the first process found that found something; all must end together."""
        told = self.ranks.tell(None if found.pure else asdict(found))
        return next((Purity(**known) for known in told if known is not None), found)

    def _solve(self, process: Threestudio, reached: Any, target: int, accept: Callable[[Any], None]) -> None:
        monitor, last = self._purity, int(self.studio.trainer.max_steps)
        assert monitor is not None

        def after(round: Round) -> None:
            with guard.hold():
                stop, look = self.ranks.any(guard.asked is not None, monitor.due(round.step, last))
                if stop or look or round.step == target or round.parts is WHOLE:
                    accept(round.window)
                self._tell(process, round.step)
                if self._log is not None and self._bar is not None:
                    self._log.add(round)
                    self._bar.show(round)
                if stop:
                    raise Interrupted(guard.asked)
            if look and not (found := self._agreed(monitor.look(round.state))).pure:
                raise NotAChain(found.line())

        # Lightning takes SIGTERM for itself, and would look at it only when this returns
        with Guard(together=self.ranks.size > 1) as guard:
            begun = Window(reached.states, reached.threshold)
            if self.sequential:
                skip = self.parallel.on_nonfinite
                dp.solve_sequential(process, target, on_nonfinite=skip, state=begun, callback=after)
            else:
                options = parallel.solve_options(process, self.parallel, self.ranks)
                dp.solve(process, last, state=begun, stop=target, callback=after, **options)

    def _share(self, state: State) -> State:
        """What the first process's validation has left, on all of them."""
        if self.ranks.size == 1:
            return state
        shared = crew.share(self.ranks, Window((state,)))
        assert shared is not None
        return placed(shared.states[0], state)

    def _tell(self, process: Threestudio, step: int) -> None:
        """What the accepted steps logged, to the trainer's loggers."""
        every = int(self.studio.trainer.get("log_every_n_steps", 50))
        for t, metrics in process.take_log(step):
            if self.lead and metrics and (t + 1) % every == 0:
                for logger in self._loggers:
                    logger.log_metrics({**metrics, **process.stepper.rates(t), "epoch": 0}, step=t)

    def _summary(self, step: int) -> dict[str, Any]:
        assert self._log is not None
        rounds = len(self._log.rows)
        return {
            "prompt": OmegaConf.select(self.studio, "system.prompt_processor.prompt", default=""),
            "method": str(self.studio.system_type),
            "steps": step,
            "rounds": rounds,
            "drifts": self._log.drifts,
            "speedup_rounds": step / rounds if rounds else 1.0,
            "wall_seconds": self._log.wall_seconds,
            "seconds_per_step": self._log.wall_seconds / max(step, 1),
            "world_size": self.ranks.size,
            "skipped": self._log.skipped,
            "seconds": self._log.laps | {"purity": self._purity.seconds if self._purity else 0.0},
            "parallel": {"window": 1} if self.sequential else asdict(self.parallel),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "seed": int(self.studio.seed),
            "versions": versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
