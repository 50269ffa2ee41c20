"""One checkpoint: its two files are written beside and renamed, the ``.json`` last.

A checkpoint without its ``.json`` was never finished. That holds a checksum of the tensors and one of itself, so that
no changed bit is ever taken for what was saved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamprop.checkpoint.format import Damaged, from_json, pack, to_json, unpack
from dreamprop.solver.window import Window
from dreamprop.state import State

PARTIAL = ".partial-"


def save(folder: Path | str, state: State | Window, meta: Mapping[str, Any]) -> Path:
    """Write a state, or all that a round leaves to the next; a checkpoint of the same step is replaced.

    Args:
        folder: made if it is not there.
        state: an accepted state, or a window, from which a run goes on bit for bit.
        meta: what else belongs to it, as JSON.

    Returns:
        The path of the ``.safetensors`` file.

    Raises:
        OSError: the disk refused; earlier checkpoints are as they were.
        ValueError: a tensor is of a kind that the format does not hold, or the steps of a window do not follow one
            another.
    """
    data, about = pack(state if isinstance(state, Window) else Window((state,)), meta)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name_of(about["steps"][0])
    _place(path, data, to_json(about), about["sha256"])
    _sync(folder)
    return path


def load(path: Path | str) -> tuple[State, dict[str, Any]]:
    """Read the accepted state and its meta, on the CPU.

    Raises:
        ValueError: the checkpoint is missing, damaged or not one of ours; one line.
        OSError: it cannot be read.
    """
    window, meta = load_window(path)
    return window.states[0], meta


def load_window(path: Path | str) -> tuple[Window, dict[str, Any]]:
    """Read all that was saved and its meta, on the CPU; raises what ``load`` raises."""
    path = Path(path).with_suffix(".safetensors") if Path(path).suffix == ".json" else Path(path)
    about = describe(path)
    data = path.read_bytes()
    try:
        return unpack(data, about), about["meta"]
    except Damaged as error:
        raise error.of(path) from None


def describe(path: Path) -> dict[str, Any]:
    """What the ``.json`` says. It is whole, and the tensors have as many bytes as it tells; they are not read.

    Raises:
        Damaged: one of them is not so.
        OSError: a file cannot be read.
    """
    about_path = path.with_suffix(".json")
    if path.suffix != ".safetensors":
        raise Damaged("checkpoint must be a .safetensors file, got another", "give one of its folder").of(
            path
        )
    for file in (path, about_path):
        if not file.is_file():
            what = f"checkpoint must be two files, got no {file.name}"
            raise Damaged(what, "give one that was finished").of(path.parent)
    try:
        about = from_json(about_path.read_bytes())
    except Damaged as error:
        raise error.of(about_path) from None
    step, size = about["steps"][0], path.stat().st_size
    if re.fullmatch("step-[0-9]+", path.stem) and path.name != name_of(step):
        what = f"checkpoint must be of the step in its name, got {step}"
        raise Damaged(what, "give it its own name").of(path)
    if size != about["bytes"]:
        what = f"checkpoint must have {about['bytes']} bytes, got {size}"
        raise Damaged(what, "use an earlier one").of(path)
    return about


def name_of(step: int) -> str:
    """The file name of a step's tensors."""
    return f"step-{step:06d}.safetensors"


def beside(path: Path) -> Path:
    """Where a file is written before it is renamed."""
    return path.with_name(f"{PARTIAL}{path.name}")


def _place(path: Path, data: bytes, text: bytes, sha256: str) -> None:
    """Put both files in their places, so that a kill at any moment leaves a checkpoint that is whole or none."""
    about_path = path.with_suffix(".json")
    new, new_about = beside(path), beside(about_path)
    try:
        for partial, content in ((new, data), (new_about, text)):
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        # Both are on the disk; only names change from here, and no .json ever stands beside another's tensors.
        try:
            same = describe(path)["sha256"] == sha256
        except (ValueError, OSError):
            same = False
        if not same:
            about_path.unlink(missing_ok=True)
        new.replace(path)
        new_about.replace(about_path)
    finally:
        if new_about.exists() and not new.exists() and not about_path.exists():
            path.unlink(missing_ok=True)
        for partial in (new, new_about):
            partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Ask that renames be on the disk too, where the system can do it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems have no such thing
        pass
    finally:
        os.close(handle)
