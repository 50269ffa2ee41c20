"""A folder of checkpoints: which is the newest that can be trusted, which may go, what a kill left behind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dreamprop.checkpoint.format import Damaged
from dreamprop.checkpoint.io import PARTIAL, beside, describe, load_window, name_of
from dreamprop.solver.window import Window


class Found(NamedTuple):
    """The newest checkpoint that is whole."""

    path: Path
    """Its ``.safetensors`` file."""
    window: Window
    """What the run had come to."""
    meta: dict[str, Any]
    """What was saved with it."""
    damaged: list[str]
    """A line for each newer checkpoint that is damaged, the newest first."""


def newest(folder: Path | str, fits: Callable[[Path, Window, dict[str, Any]], None] | None = None) -> Found:
    """The newest checkpoint that is whole: what a run goes on from.

    Args:
        folder: of the checkpoints.
        fits: looks at what was read, by path, window and meta, and raises `Damaged` where it cannot be gone on from.

    Raises:
        Damaged: there is none, or none that is whole; one line, which names what is wrong with the newest.
        OSError: the folder cannot be read.
    """
    damaged: list[str] = []
    for path in reversed(_all(Path(folder))):
        if _unfinished(path):
            continue
        try:
            window, meta = load_window(path)
            if fits is not None:
                fits(path, window, meta)
        except Damaged as error:
            damaged.append(error.what)
        except OSError as error:
            damaged.append(f"checkpoint must be readable, got {error.strerror or error}: {path}")
        else:
            return Found(path, window, meta, damaged)
    if not damaged:
        raise _none(folder)
    others = f", and none of {len(damaged) - 1} older is whole" if len(damaged) > 1 else ""
    raise Damaged(f"{damaged[0]}{others}", "begin a new run")


def latest(folder: Path | str) -> Path:
    """The finished checkpoint with the highest step, whole or not.

    Raises:
        Damaged: there is none.
    """
    found = finished(folder)
    if not found:
        raise _none(folder)
    return found[-1]


def finished(folder: Path | str) -> list[Path]:
    """The checkpoints of which both files are there, the newest last; whether they are whole is not looked at."""
    return [path for path in _all(Path(folder)) if path.is_file() and path.with_suffix(".json").is_file()]


def keep(folder: Path | str, n: int, last: Path | None = None) -> list[Path]:
    """Drop all checkpoints older than the n newest sound ones.

    Sound is one whose ``.json`` matches its own checksum and whose tensors have as many bytes as that tells. No
    tensors are read, so a bit that flipped in them is not seen here. A damaged one is not counted, and goes when it
    is older than those that stay.

    Args:
        folder: of the checkpoints.
        n: how many stay.
        last: the one just saved, which counts as the newest. Those of later steps, left by a run that went on from
            an earlier one, are neither counted nor dropped until the run has passed them.

    Returns:
        Those that were dropped.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"keep must be >= 1, got {n}; use 1 to keep the newest only")
    found = _all(Path(folder))
    if last is not None:
        found = [path for path in found if _step(path) <= _step(last)]
    sound = [path for path in found if _is_sound(path)]
    dropped = found[: found.index(sound[-n])] if len(sound) >= n else []
    for path in dropped:
        for file in (path.with_suffix(".json"), path):
            if not file.is_dir():
                file.unlink(missing_ok=True)
    return dropped


def sweep(folder: Path | str) -> list[Path]:
    """Remove what a killed process left half written; nobody may be writing there.

    That is every file ``.partial-*``, and tensors whose ``.json`` is still one. Tensors without it that no kill
    explains are left alone.

    Returns:
        The files that were removed.
    """
    folder = Path(folder)
    half = [path for path in _all(folder) if path.is_file() and _unfinished(path)]
    partial = [path for path in sorted(folder.glob(f"{PARTIAL}*")) if not path.is_dir()]
    for path in (*half, *partial):  # in this order: the second tells of the first
        path.unlink(missing_ok=True)
    return half + partial


def _all(folder: Path) -> list[Path]:
    """Every checkpoint of which there is a file, by step; a step has one name."""
    if not os.path.isdir(folder):  # which is False, and no error, for names that the system refuses
        return []
    stems = {path.stem for path in folder.iterdir() if path.suffix in (".safetensors", ".json")}
    steps = [int(stem[5:]) for stem in stems if re.fullmatch("step-([0-9]{6}|[1-9][0-9]{6,})", stem)]
    return [folder / name_of(step) for step in sorted(steps)]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _unfinished(path: Path) -> bool:
    """Whether a process was killed between the renames of its two files."""
    about_path = path.with_suffix(".json")
    return not about_path.exists() and beside(about_path).exists()


def _is_sound(path: Path) -> bool:
    try:
        describe(path)
    except (ValueError, OSError):
        return False
    return True


def _none(folder: Path | str) -> Damaged:
    what = f"folder must hold a checkpoint step-*.safetensors with its .json, got {folder}"
    return Damaged(what, "run with --train")
