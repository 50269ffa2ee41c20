"""The pictures of a threestudio system's test, for a comparison and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamprop.runs.artifacts import images
from dreamprop.runs.outcome import VIEWS

FRAMES, FPS = 36, 12
"""Pictures of the turntable, at most, and how many of them a second."""
WIDTH = 480
"""Pixels that a picture on the page is wide, at most."""
ASPECT = 8
"""How much wider than high a row of pictures on the page is, about."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What the test of a system showed."""

    views: Sequence[Tensor] = ()
    """[N] pictures [3, H, W], 8 bits, as they were written."""
    turntable: bytes = b""
    """All pictures, or evenly chosen ones, smaller, as a GIF."""
    sheet: bytes = b""
    """Some pictures side by side, as a PNG."""


def read_views(save: Path) -> Shown:
    """The pictures that a system's test has just written, `it*-test/*.png`; none where it writes others.

    Args:
        save: the folder `save` of a run.
    """
    paths = sorted(save.glob("it*-test/*.png"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        return Shown()
    with Image.open(paths[0]) as first:
        width, height = first.size
    columns = max(1, round(ASPECT * height / width))
    rows = min(2, len(paths) // columns) or 1
    scale = min(1.0, WIDTH / width)
    small = max(1, round(scale * width)), max(1, round(scale * height))
    return Shown(
        [_read(path) for path in _spread(paths, VIEWS)],
        images.gif(_smaller(_spread(paths, FRAMES), small), FPS),
        images.png(images.side_by_side(_smaller(_spread(paths, rows * columns), small), columns)),
    )


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, evenly chosen."""
    count = min(most, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def _read(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as 8-bit RGB, [3, H, W]."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    pixels = np.array(rgb if size in (None, rgb.size) else rgb.resize(size, Image.Resampling.BOX))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _smaller(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Pictures of one size, (W, H), in [0, 1], [N, 3, H, W]."""
    return torch.stack([_read(path, size) for path in paths]).float() / 255
