"""A run of an unmodified threestudio system: threestudio's own launch, with the loop over its steps solved.

What a run writes, and where, is threestudio's: `ckpts`, `save`, `configs`, `code`, `tb_logs`, `csv_logs`,
`cmd.txt` in its trial folder. Beside them stand `metrics.csv`, a line a round, and `summary.json`.
"""

import importlib
import logging
import os
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf

import dreamprop as dp
from dreamprop import audit, crew, files, parallel
from dreamprop import config as configs
from dreamprop.build import device_of
from dreamprop.config import InputError
from dreamprop.interrupt import Guard, Interrupted
from dreamprop.progress import Bar
from dreamprop.ranks import RankFailed, Ranks, part
from dreamprop.roundlog import RoundLog
from dreamprop.run import STOPS
from dreamprop.settings import ParallelConfig
from dreamprop.shards import WHOLE
from dreamprop.solution import Round
from dreamprop.state import State
from dreamprop.summary import versions
from dreamprop.threestudio import build
from dreamprop.threestudio.checkpoint import status
from dreamprop.threestudio.compat import install
from dreamprop.threestudio.fit import solved
from dreamprop.threestudio.purity import check
from dreamprop.threestudio.system import Threestudio

T = TypeVar("T")
VERBS = ("train", "validate", "test", "export")
STAGES = ("validation", "test", "predict")


def launch(given: Namespace) -> int:
    """Do what the command line asks for, with threestudio.

    Args:
        given: the parsed command line.

    Returns:
        The exit status.

    Raises:
        InputError: what was given is wrong, in threestudio's words where it is threestudio that says so.
    """
    verb = next((verb for verb in VERBS if getattr(given, verb)), None)
    if verb is None:
        raise InputError("--compare is not for threestudio's systems; use --train, and --train --baseline")
    ranks = crew.meet(given.device or ("auto" if given.gpu is None else f"cuda:{given.gpu}"))
    if ranks.size > 1 and (verb != "train" or given.baseline):
        raise InputError(
            f"{ranks.size} processes share a --train alone; start anything else without torchrun"
        )
    arguments = [*given.overrides, *([f"resume={given.resume}"] if given.resume else [])]
    device = _device(given)
    root = given.threestudio
    config = given.config.resolve()
    with _theirs():
        report = crew.together(ranks, lambda: _given(lambda: install(root, device)))
        if ranks.rank == 0:
            print("\n".join(report.lines()))
        arguments = _paths(arguments)
        if root is not None:
            os.chdir(root)  # load/, custom/ and outputs/ are where threestudio's users have them
        build.extensions(Path("custom"))
        read = build.read(config, arguments, n_gpus=ranks.size)
    block = configs.build(ParallelConfig, configs.merge(ParallelConfig, [read.parallel]))
    ranks = Ranks(timeout=block.timeout)
    return Run(config, read.studio, block, device, given, ranks).do(verb)


class Run:
    """One run of a config.

    Args:
        path: of the config.
        studio: threestudio's config.
        block: `parallel` of the config: how the chain is solved.
        device: where.
        given: the command line.
        ranks: the processes that share the windows; the first one writes, prints, validates and tests.
    """

    def __init__(
        self,
        path: Path,
        studio: Any,
        block: ParallelConfig,
        device: torch.device,
        given: Namespace,
        ranks: Ranks,
    ) -> None:
        self.ranks, self.lead = ranks, ranks.rank == 0
        self.path, self.studio, self.parallel = path, studio, block
        self.device, self.sequential = device, bool(given.baseline)
        self.place = Path(studio.trial_dir)
        self._begun = False
        self._log: RoundLog | None = None

    def do(self, verb: str) -> int:
        """Train, validate, test or export."""
        with _theirs():
            data, system = crew.together(self.ranks, lambda: _given(lambda: build.make(self.studio)))
            trainer = self._trainer(system, training=verb == "train")
        if verb == "train":
            return self._train(trainer, system, data)
        resume = self.studio.resume
        with _theirs():
            if resume is not None:  # Lightning restores neither by itself outside fit
                system.set_resume_status(*status(resume))
        begun: list[int] = []
        watch = importlib.import_module("pytorch_lightning.callbacks").LambdaCallback(
            **{f"on_{stage}_batch_start": lambda *_: begun.append(1) for stage in STAGES}
        )
        trainer.callbacks.append(watch)
        run = {"validate": trainer.validate, "test": trainer.test, "export": trainer.predict}[verb]
        with _theirs(lambda: bool(begun)):
            run(system, datamodule=data, ckpt_path=resume)
        return 0

    def _train(self, trainer: Any, system: Any, data: Any) -> int:
        if self.lead:
            self.place.mkdir(parents=True, exist_ok=True)
            (self.place / "cmd.txt").write_text("python " + " ".join(sys.argv) + "\n")
            print(f"writing to {self.place}")
        seed = int(self.studio.seed)
        solved(trainer, system, seed, self._solve, self._ready, lambda step: int(self.ranks.tell(step)[0]))
        try:
            with Guard(), _theirs(lambda: self._begun):
                trainer.fit(system, datamodule=data, ckpt_path=self.studio.resume)
        except STOPS as stop:
            if not self.lead:
                return 1
            if isinstance(stop, RankFailed):
                print(stop.told, file=sys.stderr)
            if self._log is not None:
                self._log.__exit__(None, None, None)
            kept = self.place / "ckpts" / f"stopped-step={trainer.global_step}.ckpt"
            trainer.save_checkpoint(kept)
            print(f"{stop}\nsaved {kept}; go on with:\n  --train resume={kept}", file=sys.stderr)
            return 1
        part()  # Lightning would wait for the others in everything that the first process now does alone
        if self._log is None:
            return 0
        self._log.__exit__(None, None, None)
        files.write_json(self.place / "summary.json", self._summary(trainer.global_step))
        trainer.test(system, datamodule=data)
        return 0

    def _ready(self, process: Threestudio, state: State) -> None:
        """Before the first step: whether the system is a chain at all, and can be solved as asked."""
        parallel.check(process, self.parallel, self.ranks)
        found = check(process, state, tolerance=self.parallel.purity_tolerance)
        if not found.pure and self.parallel.purity == "strict":
            raise InputError(f"{found.line()}, or with parallel.purity=warn at your own risk")
        if self.lead:
            print(
                found.line()
                if found.pure
                else f"going on all the same (parallel.purity: warn): {found.line()}"
            )
        self._begun = True
        self._log = RoundLog(self.place, state.step) if self.lead else None

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
        with Guard(together=self.ranks.size > 1) as guard, shown as bar:
            if self.sequential:
                skip = self.parallel.on_nonfinite
                return dp.solve_sequential(
                    process, target, on_nonfinite=skip, state=state, callback=after
                ).state
            options = parallel.solve_options(process, self.parallel, self.ranks)
            return dp.solve(process, target, state=state, callback=after, **options).state

    def _tell(self, process: Threestudio, step: int) -> None:
        """What the accepted steps logged, to the trainer's loggers."""
        every = int(self.studio.trainer.get("log_every_n_steps", 50))
        for t, metrics in process.take_log(step):
            if self.lead and metrics and (t + 1) % every == 0:
                for logger in self._loggers:
                    logger.log_metrics({**metrics, **process.stepper.rates(t), "epoch": 0}, step=t)

    def _trainer(self, system: Any, training: bool) -> Any:
        """The trainer that threestudio's launch makes, on this device."""
        lightning: Any = importlib.import_module("pytorch_lightning")
        callbacks: list[Any] = []
        self._loggers: list[Any] = []
        options = dict(self.studio.trainer)
        if training and self.lead:
            own: Any = importlib.import_module("threestudio.utils.callbacks")
            place = str(self.place)
            callbacks = [
                lightning.callbacks.ModelCheckpoint(
                    dirpath=os.path.join(place, "ckpts"), **self.studio.checkpoint
                ),
                own.CodeSnapshotCallback(os.path.join(place, "code"), use_version=False),
                own.ConfigSnapshotCallback(
                    str(self.path), self.studio, os.path.join(place, "configs"), use_version=False
                ),
            ]
            self._loggers = [lightning.loggers.CSVLogger(place, name="csv_logs"), *system.get_loggers()]
            if _has("tensorboard"):
                os.makedirs(os.path.join(place, "tb_logs"), exist_ok=True)
                self._loggers.insert(0, lightning.loggers.TensorBoardLogger(place, name="tb_logs"))
        if training:
            options["enable_progress_bar"] = False  # the bar is of rounds
        if not self.lead:
            callbacks, self._loggers = [], []
            options |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
        cuda = self.device.type == "cuda"
        return lightning.Trainer(
            callbacks=callbacks,
            logger=self._loggers if self.lead else False,
            inference_mode=False,
            accelerator="gpu" if cuda else "cpu",
            devices=[self.device.index or 0] if cuda else 1,
            **options,
        )

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
            "audit": audit.summary(self._log.audits),
            "seconds": self._log.laps,
            "parallel": {"window": 1} if self.sequential else asdict(self.parallel),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "seed": int(self.studio.seed),
            "versions": versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def _given(do: Callable[[], T]) -> T:
    """Do something; what threestudio refuses in it becomes what the user is told."""
    with _theirs():
        return do()


@contextmanager
def _theirs(begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """What threestudio, or what it is built on, refuses is told in its own words, with status 2.

    Args:
        begun: whether a run is under way: an error then is no longer about what was given.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if begun():
            raise
        if logging.getLogger("pytorch_lightning").isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        words = traceback.format_exception_only(error)[-1]
        raise InputError(str(error) if _ours(error) else words) from error


def _ours(error: Exception) -> bool:
    """Whether an error is raised by our own code, and is a sentence already."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, ValueError) and name.startswith("dreamprop")


def _device(given: Namespace) -> torch.device:
    """The device of this process; like threestudio's, `--gpu` hides the others where nobody chose before."""
    if given.gpu is not None:
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return device_of(f"cuda:{given.gpu}")
    return device_of(given.device or "auto")


def _paths(arguments: Sequence[str]) -> list[str]:
    """Overrides whose value is a file here, made absolute: the working directory is about to change."""
    made = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        known = key == "resume" or os.sep in value
        made.append(f"{key}={Path(value).resolve()}" if known and Path(value).exists() else argument)
    return made


def _has(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
