"""Saving a run and going on with it."""

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dreamprop import checkpoint
from dreamprop.checkpoint import Damaged
from dreamprop.config import loader as configs
from dreamprop.config.loader import InputError
from dreamprop.config.validate import brief
from dreamprop.optim.moments import SKIPPED, MomentKey
from dreamprop.runs.experiment import Experiment
from dreamprop.solver.predict import momentum
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils import atomic_io


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
    atomic_io.make_folder(where)
    tree = OmegaConf.to_container(experiment.tree, resolve=True)
    with atomic_io.writing(where):
        path = checkpoint.save(where, window, {"config": tree})
        checkpoint.keep(where, experiment.config.checkpoint.keep, last=path)
    return path


def keep_config(place: Path, experiment: Experiment) -> None:
    """Write the config of a run where it is gone or says something else, so that what goes on goes on with this one.

    Raises:
        InputError: the disk refused.
    """
    path, tree = place / "config.yaml", experiment.tree.copy()
    OmegaConf.set_readonly(tree, False)
    with suppress(InputError):  # the run keeps its name, wherever it lies now
        before = configs.read(path)
        tree.update({key: before[key] for key in ("name", "tag", "exp_root_dir") if key in before})
    text = OmegaConf.to_yaml(tree)
    if not path.is_file() or path.read_bytes() != text.encode():
        atomic_io.write_text(path, text)


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


def load(experiment: Experiment, process: Any, resume: Path) -> tuple[Path, Window | None, list[str]]:
    """The folder of an earlier run and what it has come to.

    Args:
        experiment: the config, which must describe the same process.
        process: the process itself, whose states those of the checkpoint must be like.
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

    def fits(path: Path, window: Window, meta: dict[str, Any]) -> None:
        _check_config(experiment, path, meta)
        try:
            check(process, window)
        except Damaged as error:
            raise error.of(path) from None

    try:
        if os.path.isdir(resume):
            folder = resume / "checkpoints" if (resume / "checkpoints").is_dir() else resume
            if (resume / "config.yaml").is_file() and not any(folder.glob("step-*")):
                return resume, None, [f"{resume} has no checkpoint yet; beginning at step 0"]
            path, window, _, notes = checkpoint.newest(folder, fits)
        else:
            path = resume
            window, meta = checkpoint.load_window(path)
            fits(path, window, meta)
    except (Damaged, OSError) as error:
        raise InputError(str(error)) from error
    step = window.states[0].step
    if step > experiment.config.trainer.max_steps:
        raise InputError(
            f"trainer.max_steps must be >= {step}, the step of {path}, "
            f"got {experiment.config.trainer.max_steps}; raise it"
        )
    return place_of(path), window, notes


def check(process: Any, window: Window) -> None:
    """See that a window is one of a process: its tensors have the names, shapes and types of the process's own states.

    Raises:
        Damaged: it is not, or a number in it is not finite.
    """
    first = window.states[0]
    for state in window.states:
        like = _like(process, state.step)
        shaped = hasattr(process, "predict") or not any(step <= state.step for step in process.boundaries)
        moments = dict(state.moments)
        skipped = moments.pop(SKIPPED, None)
        if skipped is not None:
            _alike("moments", {SKIPPED: skipped}, {SKIPPED: torch.zeros((), dtype=torch.int64)})
        _alike("params", state.params, like.params, shaped)
        _alike("buffers", state.buffers, like.buffers, shaped)
        if moments or state is first:  # of those ahead, only the last has some
            _alike("moments", moments, like.moments, shaped)
    counts = {name: b for name, b in first.buffers.items() if not b.is_floating_point()}
    _alike("trend", window.trend, {name: counts[name] for name in window.trend if name in counts})


def _like(process: Any, step: int) -> State:
    """A state like the one that enters a step, but for its values: the first one, grown at each boundary passed."""
    state: State = process.init()
    for boundary in sorted(process.boundaries):
        if boundary <= step:
            state = momentum(process, replace(state, step=boundary - 1))
    # without what a prediction leaves to the next
    moments = {name: m for name, m in state.moments.items() if MomentKey.parse(name).initial}
    return replace(state, moments=moments)


def _alike(part: str, got: Mapping[str, Tensor], like: Mapping[str, Tensor], shaped: bool = True) -> None:
    """See that tensors are finite, and like others in names, types and, if wanted, shapes."""
    remedy = "use an earlier one, or begin a new run"
    if got.keys() != like.keys():
        name = min(got.keys() ^ like.keys())
        what = f"without {name}" if name in like else f"with {name}"
        raise Damaged(f"checkpoint must hold the {part} of its process, got them {what}", remedy)
    for name, tensor in got.items():
        kind = (tensor.dtype, tuple(tensor.shape) if shaped else tensor.dim())
        wanted = (like[name].dtype, tuple(like[name].shape) if shaped else like[name].dim())
        if kind != wanted:
            what = f"{str(wanted[0]).removeprefix('torch.')} {wanted[1]}"
            found = f"{str(kind[0]).removeprefix('torch.')} {kind[1]}"
            raise Damaged(f"checkpoint must hold {part} {name} as {what}, got {found}", remedy)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Damaged(f"checkpoint must hold finite {part}, got NaN or Inf in {name}", remedy)


def place_of(resume: Path) -> Path:
    """The folder of a run that is given by itself, by its `checkpoints` or by one of these."""
    folder = resume if os.path.isdir(resume) else resume.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _check_config(experiment: Experiment, path: Path, meta: Mapping[str, Any]) -> None:
    """See that a checkpoint was made with this config, but for what may change.

    Raises:
        InputError: it was made with another one.
    """
    ours: Any = OmegaConf.to_container(experiment.tree, resolve=True)
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


def _first_difference(key: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(set(ours) | set(theirs)):
            if ours.get(name) != theirs.get(name):
                return _first_difference(f"{key}.{name}", ours.get(name), theirs.get(name))
    return key, ours, theirs
