"""`--export`: the mesh of a run that is saved in a folder."""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamprop.config.loader import InputError
from dreamprop.runs import resume
from dreamprop.runs.artifacts import mesh
from dreamprop.runs.experiment import Experiment, make_process
from dreamprop.state import State, to
from dreamprop.utils.device import device_of


def write_mesh(process: Any, state: State, experiment: Experiment, place: Path) -> list[Path]:
    """Write `mesh.obj` and `mesh.glb` of a state.

    Args:
        process: has `density_and_color(state, points)` and `bound`.
        state: the result.
        experiment: `export` says how fine and at what density.
        place: where to.

    Returns:
        The files written.

    Raises:
        EmptySurface: the density reaches the threshold nowhere.
        InputError: the disk refused.
    """
    device = device_of(experiment.config.device)

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        density, color = process.density_and_color(state, points.to(device))
        return density, color

    return mesh.write(place, mesh.extract(field, float(process.bound), experiment.config.export))


def write_mesh_if_any(process: Any, state: State, experiment: Experiment, place: Path) -> list[str]:
    """The names of what `write_mesh` writes; a scene without a surface is told, but no error of a run that is done."""
    try:
        return [path.name for path in write_mesh(process, state, experiment, place)]
    except mesh.EmptySurface as error:
        print(f"no mesh: {error}", file=sys.stderr)
        return []


def export(experiment: Experiment, folder: Path) -> int:
    """Write the mesh of the newest checkpoint of a run into its folder.

    Args:
        experiment: the checked config.
        folder: the folder of the run, or one of its checkpoints.

    Returns:
        The exit status, 0.

    Raises:
        InputError: the checkpoint or the disk is wrong, or there is no surface.
    """
    process = make_process(experiment)
    place, window, notes = resume.load(experiment, process, folder)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if window is None:
        raise InputError(
            f"--export must have a checkpoint, got {folder} without one; run it with --train --resume"
        )
    state = to(window.states[0], device_of(experiment.config.device))
    for path in write_mesh(process, state, experiment, place):
        print(path)
    return 0
