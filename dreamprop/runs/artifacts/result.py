"""Everything that a result is shown by: pictures, what a judge says of them, and the mesh."""

from pathlib import Path
from typing import Any

import torch

from dreamprop.runs.artifacts.config import ExportConfig, OutputConfig
from dreamprop.runs.artifacts.judgement import judge_views
from dreamprop.runs.artifacts.mesh import write_mesh_if_any
from dreamprop.runs.artifacts.views import write_pictures
from dreamprop.state import State


def write_result(
    process: Any,
    state: State,
    output: OutputConfig,
    export: ExportConfig,
    device: torch.device,
    place: Path,
    judged: str,
) -> dict[str, Any]:
    """Show the result of a run in its folder.

    Args:
        process: has `render_views`, `density_and_color` and `bound`.
        state: the result.
        output: the pictures.
        export: the mesh.
        device: where the state is.
        place: the folder.
        judged: the prompt that the judge looks for; nothing to leave it out.

    Returns:
        `judge`: what the judge says of the views; and `mesh`: the files of the mesh.

    Raises:
        InputError: the disk refused.
    """
    views = write_pictures(process, state, output, place)
    return {
        "judge": judge_views(judged, views),
        "mesh": write_mesh_if_any(process, state, export, device, place),
    }
