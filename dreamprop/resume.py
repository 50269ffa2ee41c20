"""Saving a run and going on with it."""

import os
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreamprop import checkpoint, files
from dreamprop.build import Experiment
from dreamprop.config import InputError
from dreamprop.window import Window


def save(place: Path, experiment: Experiment, window: Window) -> Path:
    """Save what a run has come to under `checkpoints/`, then drop the oldest beyond `checkpoint.keep`.

    Args:
        place: the folder of the run.
        experiment: the config, kept beside the state so that another one is noticed.
        window: the accepted state, and what lies ahead of it.

    Returns:
        The file.

    Raises:
        InputError: the disk refused; the checkpoints that were there still are.
    """
    where = place / "checkpoints"
    files.make_folder(where)
    tree = OmegaConf.to_container(experiment.tree, resolve=True)
    with files.writing(where):
        path = checkpoint.save(where, window, {"config": tree})
        checkpoint.keep(where, experiment.config.checkpoint.keep, last=path)
    return path


def command(place: Path, sequential: bool, processes: int = 1) -> str:
    """The command that goes on with a run."""
    flags = ["--train", "--baseline"] if sequential else ["--train"]
    config = str(place / "config.yaml")
    return shlex.join([*started(processes), "--config", config, *flags, "--resume", str(place)])


def started(processes: int) -> list[str]:
    """How the program is started, without its arguments."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    start = ["python"] if processes == 1 else ["torchrun", "--nproc-per-node", str(local)]
    if processes > local:
        start += ["--nnodes", str(processes // local), "..."]
    return [*start, "launch.py"]


FREE = ("name", "tag", "exp_root_dir", "device", "trainer", "parallel", "checkpoint", "output", "export")
"""Keys that may change when a run goes on: they do not change what a state means."""


def load(experiment: Experiment, resume: Path) -> tuple[Path, Window | None, list[str]]:
    """The folder of an earlier run and what it has come to.

    Args:
        experiment: the config, which must describe the same process.
        resume: the folder of the run, its `checkpoints` or one checkpoint.

    Returns:
        place: the folder of the run.
        window: the newest state that is whole, and what lies ahead of it; none where the run ended before its first
            checkpoint.
        notes: a line for each newer checkpoint that is damaged, and one where there is none.

    Raises:
        InputError: there is no run, no checkpoint is whole, it is of another process, or lies beyond the last step.
    """
    notes: list[str] = []
    try:
        if os.path.isdir(resume):
            folder = resume / "checkpoints" if (resume / "checkpoints").is_dir() else resume
            if (resume / "config.yaml").is_file() and not any(folder.glob("step-*")):
                return resume, None, [f"{resume} has no checkpoint yet; beginning at step 0"]
            path, window, meta, notes = checkpoint.newest(folder)
        else:
            path = resume
            window, meta = checkpoint.load_window(path)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    place = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    ours: Any = OmegaConf.to_container(experiment.tree, resolve=True)
    theirs = meta.get("config", {})
    for key in sorted(set(ours) | set(theirs)):
        if key not in FREE and ours.get(key) != theirs.get(key):
            name, value, old = _first_difference(key, ours.get(key), theirs.get(key))
            raise InputError(
                f"{name} is {value!r} but the checkpoint {path} was made with {old!r}; "
                f"use --config {place / 'config.yaml'}"
            )
    step = window.states[0].step
    if step > experiment.config.trainer.max_steps:
        raise InputError(
            f"trainer.max_steps must be >= {step}, the step of {path}, "
            f"got {experiment.config.trainer.max_steps}; raise it"
        )
    return place, window, notes


def newest(resume: Path) -> Path:
    """The newest checkpoint of a run.

    Args:
        resume: the folder of the run or its `checkpoints`.

    Raises:
        InputError: there is none.
    """
    try:
        return checkpoint.latest(resume / "checkpoints" if (resume / "checkpoints").is_dir() else resume)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.stem.rpartition("-")[2])


def _first_difference(key: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(set(ours) | set(theirs)):
            if ours.get(name) != theirs.get(name):
                return _first_difference(f"{key}.{name}", ours.get(name), theirs.get(name))
    return key, ours, theirs
