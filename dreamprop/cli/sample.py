"""`--sample`: pictures of a prompt, in their folder."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.begin import open_folder
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.sampling.result import write_result
from dreamprop.runs.sampling.run import accelerated, make_pipeline
from dreamprop.runs.sampling.run import sample as run
from dreamprop.runs.stops import STOPS, trace
from dreamprop.utils.signals import Guard


def sample(experiment: Experiment, communicator: Communicator) -> int:
    """Draw the pictures of a config, and write everything a run of a sampler writes.

    Nothing is kept to go on from: a run that was ended is started again.

    Args:
        experiment: the checked config.
        communicator: the processes that do it together; the first one writes and prints.

    Returns:
        The exit status: 0; 1 when a signal interrupted the run, a prediction was not finite or a process failed.

    Raises:
        InputError: a setting or the disk is wrong.
    """
    config, lead = experiment.config, communicator.rank == 0
    way = accelerated(config, communicator)
    pipe = coordination.run_on_all(communicator, lambda: make_pipeline(experiment))

    def folder() -> Path:
        place = coordination.run_on_main(communicator, lambda: open_folder(experiment.tree))
        if place is not None:
            print(f"writing to {place}", flush=True)
        return place or Path()

    try:
        with Guard() as guard:
            made = run(pipe, experiment.prompt, way, config.seed, open_folder=folder, guard=guard, lead=lead)
            if made is None:
                return 0
            summary, files = write_result(experiment, pipe, way, made, communicator)
    except STOPS as stop:
        if lead:
            trace(stop)
            print(f"{stop}\nnothing is kept to go on from; start it again", file=sys.stderr, flush=True)
        return 1
    _show(summary, made.place, files)
    return 0


def _show(summary: Mapping[str, Any], place: Path, files: list[str]) -> None:
    """Print what a run came to, and its files."""
    print(
        f"{summary['steps']} steps in {summary['rounds']} rounds and {summary['wall_seconds']:.1f} s, "
        f"{summary['drifts']} calls of the U-Net for each picture"
    )
    if summary["speedup"] is not None:
        rate = f"{summary['speedup_rounds']:.1f} steps a round"
        print(f"{rate}, {summary['speedup']:.2f} times as fast as plain steps, timed on the way")
    if judge := summary["judge"]:
        print(f"the judge names the prompt in {judge['correct']} of {judge['views']} pictures")
    for name in files:
        print(f"  {place / name}")
