"""The command line for threestudio's configs."""

import copy
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamprop.config import loader as configs
from dreamprop.config.loader import InputError
from dreamprop.config.validate import brief
from dreamprop.config.yaml_size import check_size
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs import window_log
from dreamprop.runs.config import ParallelConfig
from dreamprop.runs.loop import RunSettings
from dreamprop.runs.outcome import Outcome
from dreamprop.runs.threestudio import embedded
from dreamprop.runs.threestudio.compare import compare
from dreamprop.runs.threestudio.run import Run
from dreamprop.runs.threestudio.session import Session, prompt_of
from dreamprop.threestudio import hub, limits, loading
from dreamprop.threestudio.compat import install
from dreamprop.threestudio.refusals import theirs, told
from dreamprop.utils.device import device_of

VERBS = ("train", "compare", "validate", "test", "export")


def launch(given: Namespace) -> int:
    """Do what the command line asks for, with threestudio.

    Args:
        given: the parsed command line.

    Returns:
        The exit status.

    Raises:
        InputError: what was given is wrong, in threestudio's words where it is threestudio that says so.
    """
    verb = next(verb for verb in VERBS if getattr(given, verb))
    communicator = coordination.init_communicator(
        given.device or ("auto" if given.gpu is None else f"cuda:{given.gpu}")
    )
    if communicator.size > 1 and (verb not in ("train", "compare") or given.baseline):
        raise InputError(
            f"{communicator.size} processes share a --train or a --compare; start anything else without torchrun"
        )
    arguments = [*given.overrides, *([f"resume={given.resume}"] if given.resume else [])]
    device = _device(given)
    root = given.threestudio.resolve() if given.threestudio else None
    config = given.config.resolve()
    configs.read(config)  # what is wrong with it as YAML is told before threestudio makes anything of it
    with theirs():
        report = coordination.run_on_all(communicator, lambda: told(lambda: install(root, device)))
        if communicator.rank == 0:
            print("\n".join(report.lines()))
        for argument in arguments:
            if "*" in argument:  # without which there is no alias
                check_size(argument.partition("=")[2], f"override {brief(argument)}")
        arguments = _paths(arguments)
        if root is not None:
            os.chdir(root)  # load/, custom/ and outputs/ are where threestudio's users have them
        loading.extensions(Path("custom"))
        read = loading.read(config, arguments, n_gpus=communicator.size)
    block = configs.build(ParallelConfig, configs.merge(ParallelConfig, [read.parallel]))
    if verb in ("train", "compare"):
        limits.check(read.studio)
        window_log.check(block.window, communicator)
    coordination.run_on_all(communicator, lambda: embedded.resolve(read.studio))
    coordination.run_on_all(communicator, lambda: hub.check(read.studio))
    given.config, given.threestudio, given.overrides = config, root, arguments
    if verb == "compare":
        return _compare(given, read.studio, block, device, communicator)
    communicator = Communicator(timeout=block.timeout)
    if verb == "train":
        settings = RunSettings(block, int(read.studio.trainer.max_steps), given.baseline)
        return Run(given, read.studio, settings, device, communicator).train()
    return Session(config, read.studio, device, communicator, training=False).show(verb)


def _compare(
    given: Namespace, studio: Any, block: ParallelConfig, device: torch.device, communicator: Communicator
) -> int:
    """The runs of a comparison: copies of a config that differ in their folder, their draws and how they are solved."""
    if studio.resume is not None:
        raise InputError(f"--compare starts afresh, got resume={studio.resume}; drop it")

    def train(place: Path, *, seed: int, sequential: bool) -> Outcome | None:
        own = copy.deepcopy(studio)
        own.trial_dir = str(place)
        communicator = Communicator(timeout=block.timeout)
        settings = RunSettings(block, int(studio.trainer.max_steps), sequential)
        return Run(given, own, settings, device, communicator, seed=seed, compared=True).outcome()

    return compare(Path(studio.trial_dir), prompt_of(studio), int(studio.seed), train, communicator)


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
