"""States on disk: ``step-000123.safetensors`` with a ``step-000123.json`` that tells what is in it.

Both are written beside and renamed, the ``.json`` last: a checkpoint without it was never finished. Nothing
is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from dreamprop.state import State

FORMAT = "dreamprop-state-1"
PARTS = ("params", "moments", "buffers", "extra")


def save(
    folder: Path | str, state: State, meta: Mapping[str, Any], extra: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a state; a checkpoint of the same step is replaced.

    Args:
        folder: made if it is not there.
        state: to write.
        meta: what else belongs to it, as JSON.
        extra: further tensors by name, for ``load_extra``.

    Returns:
        The path of the ``.safetensors`` file.

    Raises:
        OSError: the disk refused; earlier checkpoints are as they were.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts: tuple[Mapping[str, Tensor], ...] = (state.params, state.moments, state.buffers, extra or {})
    tensors = {
        # a copy each: the format refuses tensors that share memory
        f"{part}/{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for part, named in zip(PARTS, parts, strict=True)
        for name, tensor in named.items()
    }
    data = to_bytes(tensors)
    path = folder / f"step-{state.step:06d}.safetensors"
    about = {
        "format": FORMAT,
        "step": state.step,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        # the file sorts names; a process may draw or add up in the order of its parameters
        "names": list(tensors),
        "meta": dict(meta),
    }
    text = json.dumps(about, indent=2, allow_nan=False).encode()
    beside = [path.with_name(f".partial-{p.name}") for p in (path, path.with_suffix(".json"))]
    try:
        for partial, content in zip(beside, (data, text), strict=True):
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        # both are on the disk; only names change from here, and no .json ever stands beside another's tensors
        path.with_suffix(".json").unlink(missing_ok=True)
        beside[0].replace(path)
        beside[1].replace(path.with_suffix(".json"))
    finally:
        for partial in beside:
            partial.unlink(missing_ok=True)
    _sync(folder)
    return path


def load(path: Path | str) -> tuple[State, dict[str, Any]]:
    """Read a state and its meta, on the CPU.

    Raises:
        ValueError: the checkpoint is missing, damaged or not one of ours; one line.
    """
    about, tensors = _read(path)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    return State(parts["params"], parts["moments"], parts["buffers"], about["step"]), about["meta"]


def load_extra(path: Path | str) -> dict[str, Tensor]:
    """The further tensors that a checkpoint was saved with; raises what ``load`` raises."""
    return {key.removeprefix("extra/"): t for key, t in _read(path)[1].items() if key.startswith("extra/")}


def latest(folder: Path | str) -> Path:
    """The finished checkpoint with the highest step.

    Raises:
        ValueError: there is none.
    """
    found = _finished(Path(folder))
    if not found:
        raise ValueError(
            f"folder must hold a checkpoint step-*.safetensors with its .json, got {folder}; run with --train"
        )
    return found[-1]


def keep(folder: Path | str, n: int) -> list[Path]:
    """Drop all finished checkpoints but the n newest.

    Returns:
        Those that were dropped.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"keep must be >= 1, got {n}; use 1 to keep the newest only")
    dropped = _finished(Path(folder))[:-n]
    for path in dropped:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return dropped


def _finished(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    named = [p for p in folder.iterdir() if re.fullmatch(r"step-\d{6,}\.safetensors", p.name)]
    whole = [p for p in named if p.with_suffix(".json").is_file()]
    return sorted(whole, key=lambda p: int(p.stem.removeprefix("step-")))


def _read(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = Path(path).with_suffix(".safetensors") if Path(path).suffix == ".json" else Path(path)
    about_path = path.with_suffix(".json")
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoint must be a .safetensors file, got {path}; give one of its folder")
    for file in (path, about_path):
        if not file.is_file():
            raise ValueError(
                f"checkpoint must have {file.name} beside it, got {path}; give one that was finished"
            )
    try:
        about = json.loads(about_path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        about = None
    known = isinstance(about, dict) and about.get("format") == FORMAT
    if not known or not (isinstance(about.get("step"), int) and isinstance(about.get("meta"), dict)):
        raise ValueError(
            f"checkpoint must be described as {FORMAT}, got {about_path}; give one that dreamprop wrote"
        )
    data = path.read_bytes()
    if len(data) != about.get("bytes"):
        raise ValueError(
            f"checkpoint must have {about.get('bytes')} bytes, got {len(data)} in {path}; use an earlier one"
        )
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise ValueError(
            f"checkpoint must match its sha256, got other bytes in {path}; resume from an earlier one"
        )
    try:
        tensors = from_bytes(data)
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint must be safetensors, got {path} ({error}); give one that dreamprop wrote"
        ) from None
    names = about.get("names")
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(tensors):
        raise ValueError(
            f"checkpoint must hold the tensors it names, got others in {path}; use an earlier one"
        )
    if any(key.partition("/")[0] not in PARTS for key in tensors):
        raise ValueError(
            f"checkpoint must hold {', '.join(PARTS)}, got others in {path}; give one that dreamprop wrote"
        )
    return about, {name: tensors[name] for name in names}


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
