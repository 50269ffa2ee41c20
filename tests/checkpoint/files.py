"""The files of a checkpoint: some to begin with, what is there, and small damage to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamprop import checkpoint
from tests.checkpoint.windows import SMALL


def fill(folder: Path, *steps: int) -> list[Path]:
    """Save a small state at each of these steps, and give the paths."""
    return [checkpoint.save(folder, replace(SMALL, step=step), {}) for step in steps]


def steps_in(folder: Path) -> list[int]:
    """The steps of which both files are there; never one without the other."""
    assert {p.stem for p in folder.glob("*.json")} == {p.stem for p in folder.glob("*.safetensors")}
    return sorted(int(p.stem.removeprefix("step-")) for p in folder.glob("*.json"))


def truncate(path: Path) -> None:
    """The last bytes are gone."""
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    """The last bit is another."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
