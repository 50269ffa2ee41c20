"""Saving a run and going on with it."""

import os
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreamprop import checkpoint, files
from dreamprop.build import Experiment
from dreamprop.config import InputError
from dreamprop.state import State


def save(place: Path, experiment: Experiment, state: State) -> Path:
    """Save a state under `checkpoints/`, then drop the oldest beyond `checkpoint.keep`.

    Args:
        place: the folder of the run.
        experiment: the config, kept beside the state so that another one is noticed.
        state: the state.

    Returns:
        The file.

    Raises:
        InputError: the disk refused; the checkpoints that were there still are.
    """
    where = place / "checkpoints"
    files.make_folder(where)
    tree = OmegaConf.to_container(experiment.tree, resolve=True)
    with files.writing(where):
        path = checkpoint.save(where, state, {"config": tree})
        checkpoint.keep(where, experiment.config.checkpoint.keep)
    return path


def command(place: Path, sequential: bool) -> str:
    """The command that goes on with a run."""
    flags = ["--train", "--baseline"] if sequential else ["--train"]
    config = str(place / "config.yaml")
    return shlex.join(["python", "launch.py", "--config", config, *flags, "--resume", str(place)])


FREE = ("name", "tag", "exp_root_dir", "device", "trainer", "parallel", "checkpoint", "output", "export")
"""Keys that may change when a run goes on: they do not change what a state means."""


def load(experiment: Experiment, resume: Path) -> tuple[Path, State]:
    """The folder and the newest state of an earlier run.

    Args:
        experiment: the config, which must describe the same process.
        resume: the folder of the run, its `checkpoints` or one checkpoint.

    Raises:
        InputError: there is none, it is damaged, it is of another process, or lies beyond the last step.
    """
    path = newest(resume) if os.path.isdir(resume) else resume
    try:
        state, meta = checkpoint.load(path)
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
    if state.step > experiment.config.trainer.max_steps:
        raise InputError(
            f"trainer.max_steps must be >= {state.step}, the step of {path}, "
            f"got {experiment.config.trainer.max_steps}; raise it"
        )
    return place, state


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


def _first_difference(key: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(set(ours) | set(theirs)):
            if ours.get(name) != theirs.get(name):
                return _first_difference(f"{key}.{name}", ours.get(name), theirs.get(name))
    return key, ours, theirs
