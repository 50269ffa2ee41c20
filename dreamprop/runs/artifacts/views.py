"""The pictures of a result."""

from pathlib import Path
from typing import Any

from torch import Tensor

from dreamprop.runs.artifacts import images
from dreamprop.runs.artifacts.config import OutputConfig
from dreamprop.state import State


def views_of(process: Any, state: State, output: OutputConfig, count: int | None = None) -> Tensor:
    """Views evenly around a state, [N, 3, H, W] in [0, 1], on the CPU.

    Args:
        process: has `render_views`.
        state: what is shown.
        output: size, elevation and, by default, number of the views.
        count: how many, if not as many as `output` says.
    """
    size = output.view_size
    return process.render_views(
        state, num_views=count or output.views, width=size, height=size, elevation=output.elevation
    ).cpu()


def write_pictures(process: Any, state: State, output: OutputConfig, place: Path) -> Tensor:
    """Write the views and the turntable of a state into a folder.

    Returns:
        The views, [N, 3, H, W] in [0, 1].

    Raises:
        InputError: the disk refused.
    """
    size, count = output.turntable_size, output.turntable_frames
    frames = process.render_views(
        state, num_views=count, width=size, height=size, elevation=output.elevation
    ).cpu()
    if size == output.view_size and count % output.views == 0:
        views = frames[:: count // output.views]  # the turntable passes by
    else:
        views = views_of(process, state, output)
    images.write_bytes(place / "views.png", images.png(images.side_by_side(views)))
    images.write_turntable(place, frames, output.turntable_fps)
    return views


def write_preview(process: Any, state: State, size: int, place: Path) -> None:
    """Write `preview.png`, four views of a state side by side, into a folder.

    Raises:
        InputError: the disk refused.
    """
    views = process.render_views(state, num_views=4, width=size, height=size)
    images.write_bytes(place / "preview.png", images.png(images.side_by_side(views)))
