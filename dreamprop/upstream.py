"""A run of an unmodified threestudio system: threestudio's own launch, with the loop over its steps solved.

What a run writes, and where, is threestudio's: `ckpts`, `save`, `configs`, `code`, `tb_logs`, `csv_logs`,
`cmd.txt` in its trial folder. Beside them stand `metrics.csv`, a line a round, and `summary.json`.
"""

import importlib
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from dreamprop import config as configs
from dreamprop import crew
from dreamprop.build import device_of
from dreamprop.config import InputError
from dreamprop.fitting import Fit
from dreamprop.ranks import Ranks
from dreamprop.settings import ParallelConfig
from dreamprop.threestudio import build, hub, limits
from dreamprop.threestudio.checkpoint import status
from dreamprop.threestudio.compat import install
from dreamprop.threestudio.words import theirs

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
    root = given.threestudio.resolve() if given.threestudio else None
    config = given.config.resolve()
    with theirs():
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
    given.config, given.threestudio, given.overrides = config, root, arguments
    return Run(read.studio, block, device, given, ranks).do(verb)


class Run:
    """One run of a config.

    Args:
        studio: threestudio's config.
        block: `parallel` of the config: how the chain is solved.
        device: where.
        given: the command line, its paths absolute.
        ranks: the processes that share the windows; the first one writes, prints, validates and tests.
    """

    def __init__(
        self,
        studio: Any,
        block: ParallelConfig,
        device: torch.device,
        given: Namespace,
        ranks: Ranks,
    ) -> None:
        self.ranks, self.lead = ranks, ranks.rank == 0
        self.given, self.studio, self.parallel = given, studio, block
        self.device, self.place = device, Path(studio.trial_dir)

    def do(self, verb: str) -> int:
        """Train, validate, test or export."""
        if verb == "train":
            limits.check(self.studio)
        crew.together(self.ranks, lambda: hub.check(self.studio))
        with theirs(self.studio):
            data, system = crew.together(
                self.ranks, lambda: _given(lambda: build.make(self.studio), self.studio)
            )
            trainer = self._trainer(system, training=verb == "train")
        if verb == "train":
            run = Fit(self.studio, self.parallel, self.device, self.given, self.ranks)
            return run(trainer, system, data)
        resume = self.studio.resume
        with theirs(self.studio):
            if resume is not None:  # Lightning restores neither by itself outside fit
                system.set_resume_status(*status(resume))
        begun: list[int] = []
        watch = importlib.import_module("pytorch_lightning.callbacks").LambdaCallback(
            **{f"on_{stage}_batch_start": lambda *_: begun.append(1) for stage in STAGES}
        )
        trainer.callbacks.append(watch)
        look = {"validate": trainer.validate, "test": trainer.test, "export": trainer.predict}[verb]
        with theirs(self.studio, lambda: bool(begun)):
            look(system, datamodule=data, ckpt_path=resume)
        return 0

    def _trainer(self, system: Any, training: bool) -> Any:
        """The trainer that threestudio's launch makes, on this device."""
        lightning: Any = importlib.import_module("pytorch_lightning")
        callbacks: list[Any] = []
        loggers: list[Any] = []
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
                    str(self.given.config), self.studio, os.path.join(place, "configs"), use_version=False
                ),
            ]
            loggers = [lightning.loggers.CSVLogger(place, name="csv_logs"), *system.get_loggers()]
            if _has("tensorboard"):
                os.makedirs(os.path.join(place, "tb_logs"), exist_ok=True)
                loggers.insert(0, lightning.loggers.TensorBoardLogger(place, name="tb_logs"))
        if training:
            options["enable_progress_bar"] = False  # the bar is of rounds
        if not self.lead:
            callbacks, loggers = [], []
            options |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
        cuda = self.device.type == "cuda"
        return lightning.Trainer(
            callbacks=callbacks,
            logger=loggers if self.lead else False,
            inference_mode=False,
            accelerator="gpu" if cuda else "cpu",
            devices=[self.device.index or 0] if cuda else 1,
            **options,
        )


def _given(do: Callable[[], T], studio: Any = None) -> T:
    """Do something; what threestudio refuses in it becomes what the user is told."""
    with theirs(studio):
        return do()


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
