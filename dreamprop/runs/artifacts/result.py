"""Everything that a result is shown by: its pictures, its Gaussians where it has some, and its mesh."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamprop.runs.artifacts.config import ExportConfig, OutputConfig
from dreamprop.runs.artifacts.mesh import write_mesh_if_any
from dreamprop.runs.artifacts.splats import write_splats_if_any
from dreamprop.runs.artifacts.views import write_pictures
from dreamprop.state import State


def write_result(
    process: Any,
    state: State,
    output: OutputConfig,
    export: ExportConfig,
    device: torch.device,
    place: Path,
) -> tuple[Tensor, list[str]]:
    """Show the result of a run in its folder.

    Args:
        process: has `render_views`, `density_and_color` and `bound`; may have `splats`.
        state: the result.
        output: the pictures.
        export: the mesh.
        device: where the state is.
        place: the folder.

    Returns:
        The views, [N, 3, H, W] in [0, 1], and the names of the files of the object: Gaussians and mesh.

    Raises:
        InputError: the disk refused.
    """
    views = write_pictures(process, state, output, place)
    splats = write_splats_if_any(process, state, place)
    return views, splats + write_mesh_if_any(process, state, export, device, place)
