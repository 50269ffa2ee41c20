"""The files that a run of a sampler leaves: its pictures, its rounds and its windows.

Legend: B pictures of H x W pixels, RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from PIL import Image
from torch import Tensor

from dreamprop.runs.artifacts import plots
from dreamprop.runs.artifacts.images import png, side_by_side, to_bytes, write_bytes
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.window_log import WINDOWS, line
from dreamprop.solver.window_choice import Decision
from dreamprop.utils.atomic_io import write_text


def grid(images: Tensor) -> bytes:
    """Pictures [B, 3, H, W] in a square, as the bytes of a PNG file."""
    return png(side_by_side(images, columns=ceil(len(images) ** 0.5)))


def write_images(images: Tensor, place: Path) -> list[str]:
    """Write pictures [B, 3, H, W] into a folder: `images.png` with all of them, and each by itself.

    Returns:
        The names of the files.

    Raises:
        InputError: the disk refused.
    """
    files = {"images.png": grid(images)}
    for number, pixels in enumerate(to_bytes(images)):
        files[f"image-{number:03d}.png"] = png(Image.fromarray(pixels))
    for name, content in files.items():
        write_bytes(place / name, content)
    return list(files)


def write_rounds(log: RoundLog, place: Path) -> list[str]:
    """Write `rounds.png`: which steps each round evaluated and accepted.

    Args:
        log: rounds, each of which evaluated the steps that follow the accepted one.
        place: the folder.

    Returns:
        The names of the files.

    Raises:
        InputError: the disk refused.
    """
    return [write_bytes(place / "rounds.png", plots.steps_by_round(log)).name]


def write_windows(decisions: Sequence[Decision], place: Path) -> list[str]:
    """Write the windows that a run chose, which another follows with `parallel.window: FOLDER`.

    Returns:
        The names of the files.

    Raises:
        InputError: the disk refused.
    """
    write_text(place / WINDOWS, "".join(line(decision) for decision in decisions))
    return [WINDOWS]
