"""`--export`: the mesh of a run that is saved in a folder, and its Gaussians where it has some."""

import sys
from pathlib import Path

from dreamprop.config.loader import InputError
from dreamprop.runs import resume
from dreamprop.runs.artifacts.mesh import write_mesh, write_mesh_if_any
from dreamprop.runs.artifacts.splats import write_splats_if_any
from dreamprop.runs.experiment import Experiment, make_process
from dreamprop.state import to
from dreamprop.utils.device import device_of


def export(experiment: Experiment, folder: Path) -> int:
    """Write the mesh of the newest checkpoint of a run into its folder, and its Gaussians where it has some.

    Args:
        experiment: the checked config.
        folder: the folder of the run, or one of its checkpoints.

    Returns:
        The exit status, 0.

    Raises:
        InputError: the checkpoint or the disk is wrong, or there is no surface.
    """
    config, device = experiment.config, device_of(experiment.config.device)
    process = make_process(experiment)
    place, window, notes = resume.load(process, experiment.tree, config.trainer.max_steps, folder)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if window is None:
        raise InputError(
            f"--export must have a checkpoint, got {folder} without one; run it with --train --resume"
        )
    state = to(window.states[0], device)
    files = write_splats_if_any(process, state, place)
    if files:  # they are the result: that they enclose nothing is told, but no error
        files += write_mesh_if_any(process, state, config.export, device, place)
    else:
        files = [path.name for path in write_mesh(process, state, config.export, device, place)]
    for name in files:
        print(place / name)
    return 0
