"""`--compare` for a config that makes pictures: step by step, accelerated, and step by step from other noise."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.artifacts import report
from dreamprop.runs.begin import open_folder
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.outcome import Outcome
from dreamprop.runs.sampling.pictures import grid
from dreamprop.runs.sampling.result import write_result
from dreamprop.runs.sampling.run import Sampled, Way, accelerated, make_pipeline, sample, sequential, warm_up
from dreamprop.runs.stops import STOPS, trace
from dreamprop.state import State
from dreamprop.utils import atomic_io
from dreamprop.utils.signals import Guard

TIMING = (
    "Seconds are those of the rounds alone: imports, the loading of the model, prompts, the decoding of the pictures "
    "and files are left out, and the first rounds of both ways were taken once before the clock started. "
    "A drift is one call of the U-Net for each picture, with and without the prompt. "
    "All runs use the same threads and device; with several processes, a sequential run takes the threads of all "
    "processes of its machine and one device."
)
SHOWN = "PSNR and SSIM are over all pictures; those of the first two runs begin from the same noise."


def compare_samples(experiment: Experiment, communicator: Communicator) -> int:
    """Sample step by step, accelerated from the same noise, and step by step from that of the next seed.

    The folders are those of the comparison of objects: the accelerated run at the top, the others in `baseline/` and
    `other_noise/`, and `report.json` and `report.html`.

    Args:
        experiment: the checked config.
        communicator: the processes that make the accelerated run together.

    Returns:
        The exit status: 0, or 1 when a signal interrupted it or a prediction was not finite.

    Raises:
        InputError: a setting or the disk is wrong.
    """
    config, lead = experiment.config, communicator.rank == 0
    plain, fast = sequential(config), accelerated(config, communicator)
    pipe = coordination.run_on_all(communicator, lambda: make_pipeline(experiment))
    with coordination.main_process_first(communicator, "warm up") as mine:
        if mine:
            warm_up(pipe, experiment.prompt, plain, config.seed)
    warm_up(pipe, experiment.prompt, fast, config.seed)
    opened = coordination.run_on_main(communicator, lambda: open_folder(experiment.tree))
    place = opened or Path()
    if lead:
        print(f"writing to {place}", flush=True)
    runs = {
        "baseline": (plain, config.seed, place / "baseline"),
        "accelerated": (fast, config.seed, place),
        "other_noise": (plain, config.seed + 1, place / "other_noise"),
    }
    done: dict[str, Outcome] = {}
    try:
        with Guard() as guard:
            for key, (way, seed, where) in runs.items():
                alone = way.alone
                with (
                    coordination.main_process_first(communicator, key) if alone else nullcontext(True) as mine
                ):
                    if not mine:
                        continue
                    made = sample(
                        pipe, experiment.prompt, way, seed, open_folder=partial(_made, where, lead),
                        guard=guard, lead=lead,
                    )  # fmt: skip
                    if made is not None:
                        done[key] = _outcome(experiment, pipe, way, made, communicator)
            if lead:
                report.write(place, done, prompt=experiment.prompt, timing=TIMING, shown=SHOWN)
    except STOPS as stop:
        if lead:
            trace(stop)
            print(report.unfinished(stop, place, done), file=sys.stderr)
        return 1
    return 0


def _made(place: Path, lead: bool) -> Path:
    """The folder of one of the runs."""
    if lead:
        atomic_io.make_folder(place)
    return place


def _outcome(
    experiment: Experiment, pipe: Any, way: Way, made: Sampled, communicator: Communicator
) -> Outcome:
    """One of the runs, written to its folder, as the report takes it."""
    summary, _ = write_result(experiment, pipe, way, made, communicator)
    state = State({"images": made.images}, {}, {}, made.stats.num_steps)
    return Outcome(summary, made.log, state, list(made.images), b"", grid(made.images))
