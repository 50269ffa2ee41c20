"""`--compare` of an unmodified threestudio system: three runs from one start, and what their test views show."""

import gc
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch

from dreamprop.config.loader import InputError
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.artifacts import report
from dreamprop.runs.outcome import RUNS, VIEWS, Outcome
from dreamprop.runs.stops import STOPS, trace

TIMING = (
    "Seconds are those of the rounds alone: imports, the building of systems, validation, tests and files are left "
    "out, and each run took its way once before its clock started. All runs use the same threads and device; with "
    "several processes, a sequential run is made by the first of them when the others have ended, with the threads "
    "of all processes of its machine and one device."
)
SHOWN = (
    f"The pictures are those of threestudio's test, at most {VIEWS} of them for PSNR and SSIM. Whole pictures are "
    "compared: what a system lays side by side in one file (colours, normals, opacity) counts together."
)


class Train(Protocol):
    """One run from the config's start."""

    def __call__(self, place: Path, *, seed: int, sequential: bool) -> Outcome | None:
        """Run into a folder; none on the processes that only help.

        Args:
            place: the folder.
            seed: of the draws of the steps.
            sequential: step by step, in this process.
        """


def compare(place: Path, prompt: str, seed: int, train: Train, communicator: Communicator) -> int:
    """Run a config accelerated, sequentially, and sequentially with other noise from the same start.

    The accelerated run, which all processes make, is the first one and lies at the top; the first process makes the
    others, in `baseline/` and `other_noise/`, when its helpers have ended. `report.json` and `report.html` hold what
    came out.

    Args:
        place: the folder; it must be empty.
        prompt: what is made.
        seed: of the draws of the steps; the yardstick's is the next one.
        train: makes a run.
        communicator: the processes of the accelerated run.

    Returns:
        The exit status: 0, or 1 when a signal interrupted it or a drift was not finite.

    Raises:
        InputError: what was given is wrong.
    """
    coordination.run_on_main(communicator, lambda: _fresh(place))
    runs = {
        "accelerated": (place, seed, False),
        "baseline": (place / "baseline", seed, True),
        "other_noise": (place / "other_noise", seed + 1, True),
    }
    done: dict[str, Outcome] = {}
    try:
        for key, (where, draws, sequential) in runs.items():
            if communicator.rank == 0:
                print(f"{RUNS[key]}:")
            with coordination.all_threads() if sequential else nullcontext():
                outcome = train(where, seed=draws, sequential=sequential)
            if outcome is None:
                return 0
            done[key] = outcome
            gc.collect()  # a system and its trainer hold each other: the next run should find their memory free
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    except STOPS as stop:
        if communicator.rank == 0:
            trace(stop)
            print(report.unfinished(stop, place, done), file=sys.stderr)
        return 1
    report.write(place, done, prompt=prompt, timing=TIMING, shown=SHOWN)
    return 0


def _fresh(place: Path) -> None:
    """See that nothing of another run is taken for one of these."""
    if place.is_dir() and any(place.iterdir()):
        raise InputError(f"tag must name a new folder for --compare, got {place}; choose another tag")
