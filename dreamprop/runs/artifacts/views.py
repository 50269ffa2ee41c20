"""The pictures of a result, and what a judge that did not make them says of them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from dreamprop.runs.artifacts import images
from dreamprop.runs.artifacts.judgement import judge_views
from dreamprop.runs.experiment import Experiment
from dreamprop.state import State


def views_of(process: Any, state: State, experiment: Experiment, count: int | None = None) -> Tensor:
    """Views around the result, [N, 3, H, W] in [0, 1]."""
    output = experiment.config.output
    size = output.view_size
    return process.render_views(
        state, num_views=count or output.views, width=size, height=size, elevation=output.elevation
    ).cpu()


def write_pictures(process: Any, state: State, experiment: Experiment, place: Path) -> dict[str, Any] | None:
    """Write the views and the turntable of a state.

    Returns:
        What the judge says of the views, where the embedded model made them.
    """
    output = experiment.config.output
    size = output.turntable_size
    views = views_of(process, state, experiment)
    images.write_bytes(place / "views.png", images.png(images.side_by_side(views)))
    frames = process.render_views(
        state, num_views=output.turntable_frames, width=size, height=size, elevation=output.elevation
    )
    images.write_turntable(place, frames, output.turntable_fps)
    return judge_views(experiment, views)
