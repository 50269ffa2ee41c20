"""Everything that a run of a sampler leaves in its folder when it is done."""

from __future__ import annotations

from typing import Any

from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.sampling.methods import METHODS
from dreamprop.runs.sampling.pictures import write_images, write_rounds, write_windows
from dreamprop.runs.sampling.run import Sampled, Way
from dreamprop.runs.sampling.summary import summarize
from dreamprop.utils import atomic_io


def write_result(
    experiment: Experiment, pipe: Any, way: Way, sampled: Sampled, communicator: Communicator
) -> tuple[dict[str, Any], list[str]]:
    """Write the pictures of a run, its rounds and `summary.json`, the last of all.

    Returns:
        What `summary.json` holds, and the names of the files.

    Raises:
        InputError: the disk refused.
    """
    place = sampled.place
    files = write_images(sampled.images, place)
    if way.alone or METHODS[experiment.method].contiguous:
        files += write_rounds(sampled.log, place)
    if way.chooses:
        files += write_windows(sampled.stats.decisions, place)
    summary = summarize(experiment, pipe, way, sampled, communicator)
    atomic_io.write_json(place / "summary.json", summary)
    return summary, [*files, "summary.json"]
