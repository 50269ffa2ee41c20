"""Saving a run and going on with it."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamprop import checkpoint
from dreamprop.checkpoint import Damaged
from dreamprop.checkpoint.expected import Expected
from dreamprop.config import loader as configs
from dreamprop.config.loader import InputError
from dreamprop.config.validate import brief
from dreamprop.process import as_process
from dreamprop.solver.window import Window
from dreamprop.utils import atomic_io

FREE = ("name", "tag", "exp_root_dir", "device", "trainer", "parallel", "checkpoint", "output", "export")
"""Keys that may change when a run goes on: they do not change what a state means."""


def save(place: Path, tree: DictConfig, keep: int, window: Window) -> Path:
    """Save what a run has come to under `checkpoints/`, then drop the oldest beyond so many.

    The folder and its config are written again where they are gone.

    Args:
        place: the folder of the run.
        tree: the config, kept beside the state so that another one is noticed.
        keep: how many of the newest checkpoints stay.
        window: the accepted state, and what lies ahead of it.

    Returns:
        The file.

    Raises:
        InputError: the disk refused; the checkpoints that were there still are.
    """
    if not (place / "config.yaml").is_file():
        print(f"note: {place / 'config.yaml'} vanished, and is written again", file=sys.stderr)
        atomic_io.make_folder(place)
        keep_config(place, tree)
    where = place / "checkpoints"
    atomic_io.make_folder(where)
    with atomic_io.writing(where):
        path = checkpoint.save(where, window, {"config": OmegaConf.to_container(tree, resolve=True)})
        checkpoint.keep(where, keep, last=path)
    return path


def keep_config(place: Path, tree: DictConfig) -> None:
    """Write the config of a run where it is gone or says something else, so that what goes on goes on with this one.

    Raises:
        InputError: the disk refused.
    """
    path, tree = place / "config.yaml", tree.copy()
    OmegaConf.set_readonly(tree, False)
    with suppress(InputError):  # the run keeps its name, wherever it lies now
        before = configs.read(path)
        tree.update({key: before[key] for key in ("name", "tag", "exp_root_dir") if key in before})
    text = OmegaConf.to_yaml(tree)
    if not path.is_file() or path.read_bytes() != text.encode():
        atomic_io.write_text(path, text)


def load(process: Any, tree: DictConfig, last: int, resume: Path) -> tuple[Path, Window | None, list[str]]:
    """The folder of an earlier run and what it has come to.

    Args:
        process: the process, whose states those of the checkpoint must be like.
        tree: the config, which must describe the same process.
        last: the step that the run is to arrive at.
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
    folder = resume / "checkpoints" if os.path.isdir(resume / "checkpoints") else resume
    if os.path.isfile(resume / "config.yaml") and not any(folder.glob("step-*")):
        return resume, None, [f"{resume} has no checkpoint yet; beginning at step 0"]
    expected = Expected.of(
        as_process(process), last
    )  # and let go of, before the tensors of a checkpoint are read

    def fits(path: Path, window: Window, meta: dict[str, Any]) -> None:
        _check_config(tree, path, meta)
        try:
            expected.check(window)
        except Damaged as error:
            raise error.of(path) from None

    try:
        if os.path.isdir(resume):
            path, window, _, notes = checkpoint.newest(folder, fits)
        else:
            path = resume
            window, meta = checkpoint.load_window(path)
            fits(path, window, meta)
    except (Damaged, OSError) as error:
        raise InputError(str(error)) from error
    step = window.states[0].step
    if step > last:
        raise InputError(f"trainer.max_steps must be >= {step}, the step of {path}, got {last}; raise it")
    return place_of(path), window, notes


def place_of(resume: Path) -> Path:
    """The folder of a run that is given by itself, by its `checkpoints` or by one of these."""
    folder = resume if os.path.isdir(resume) else resume.parent
    return folder.parent if folder.name == "checkpoints" else folder


def newest(resume: Path) -> Path:
    """The newest checkpoint of a run.

    Args:
        resume: the folder of the run or its `checkpoints`.

    Raises:
        InputError: there is none.
    """
    try:
        return checkpoint.latest(resume / "checkpoints" if (resume / "checkpoints").is_dir() else resume)
    except (Damaged, OSError) as error:
        raise InputError(str(error)) from error


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.stem.rpartition("-")[2])


def _check_config(tree: DictConfig, path: Path, meta: Mapping[str, Any]) -> None:
    """See that a checkpoint was made with this config, but for what may change.

    Raises:
        Damaged: it holds no config.
        InputError: it was made with another one.
    """
    ours: Any = OmegaConf.to_container(tree, resolve=True)
    theirs = meta.get("config")
    if not isinstance(theirs, dict):
        raise Damaged(f"checkpoint must hold a config, got {brief(theirs)}", "use an earlier one").of(path)
    for key in sorted({*ours, *theirs}, key=str):
        if key not in FREE and ours.get(key) != theirs.get(key):
            name, value, old = _first_difference(key, ours.get(key), theirs.get(key))
            raise InputError(
                f"{name} is {brief(value)} but the checkpoint {path} was made with {brief(old)}; "
                f"use --config {place_of(path) / 'config.yaml'}"
            )


def _first_difference(key: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    """The first key below another one at which two configs differ, and what they say there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(set(ours) | set(theirs)):
            if ours.get(name) != theirs.get(name):
                return _first_difference(f"{key}.{name}", ours.get(name), theirs.get(name))
    return key, ours, theirs
