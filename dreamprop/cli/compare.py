"""`--compare`: the sequential and the accelerated run of one config, and a yardstick for their difference."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dreamprop as dp
from dreamprop.cli.train import conclude, open_folder
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.errors import RankFailed
from dreamprop.runs import directory, resume
from dreamprop.runs.artifacts import report
from dreamprop.runs.artifacts.views import views_of
from dreamprop.runs.experiment import Experiment, make_process, retag
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.outcome import VIEWS, Outcome
from dreamprop.runs.parallel import check, solve_options
from dreamprop.runs.solve import solve_chain
from dreamprop.runs.stops import STOPS
from dreamprop.runs.summary import summarize
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils import atomic_io
from dreamprop.utils.device import device_of
from dreamprop.utils.peak_memory import Peak
from dreamprop.utils.signals import Guard

TIMING = (
    "Seconds are those of the rounds alone: imports, the building of models and scenes, pictures and files "
    "are left out, and both ways were run once before the clock started. "
    "All runs use the same threads and device; with several processes, a sequential run takes the threads of all "
    "processes of its machine and one device."
)
SHOWN = (
    f"PSNR and SSIM are taken over {VIEWS} views all around the object, rendered from the results; the pictures show "
    "as many of them as output.views says."
)


def compare(experiment: Experiment, communicator: Communicator) -> int:
    """Run a config sequentially, accelerated, and sequentially with other noise from the same first state.

    The accelerated run is the one that the folder is about: its files lie at the top; those of the others in
    `baseline/` and `other_noise/`. `report.json` and `report.html` hold what came out.

    With several processes the sequential runs are made by the first of them, with the threads of all on its machine.

    Args:
        experiment: the checked config.
        communicator: the processes that make the accelerated run together.

    Returns:
        The exit status: 0, or 1 when a signal interrupted it or a drift was not finite.

    Raises:
        InputError: a setting or the disk is wrong.
    """
    seed, lead = experiment.config.seed, communicator.rank == 0
    process = coordination.run_on_all(communicator, lambda: make_process(experiment))
    check(process, experiment.config.parallel, communicator)
    other = copy.copy(process)  # the same model and scene, with noise of another seed
    other.seed = seed + 1
    opened = coordination.run_on_main(communicator, lambda: open_folder(experiment))
    place = Path(communicator.all_gather_object(str(opened[1]) if opened else None)[0])
    experiment = retag(experiment, place.name)
    if lead:
        print(f"writing to {place}")
    first = process.init()
    warm_up(process, experiment, first, communicator)
    runs = {
        "baseline": (process, True, place / "baseline"),
        "accelerated": (process, False, place),
        "other_noise": (other, True, place / "other_noise"),
    }
    done: dict[str, Outcome] = {}
    try:
        with directory.held(place) if lead else nullcontext(), Guard() as guard:
            for key, (chain, sequential, where) in runs.items():
                begin = Window((first,))
                if not lead and not sequential:
                    solve_chain(
                        chain, experiment, None, communicator, sequential=False, begin=begin, guard=guard
                    )
                with (
                    coordination.main_process_first(communicator, key)
                    if sequential
                    else nullcontext(lead) as mine
                ):
                    if not mine:
                        continue
                    atomic_io.make_folder(where)
                    with RoundLog(where) as log, Peak(device_of(experiment.config.device)) as peak:
                        state = solve_chain(
                            chain,
                            experiment,
                            log,
                            communicator,
                            sequential=sequential,
                            begin=begin,
                            guard=guard,
                        )
                    summary = summarize(chain, experiment, state, log, communicator, sequential=sequential)
                    summary |= {"seed": chain.seed, "peak_memory_bytes": peak.bytes}
                    conclude(chain, experiment, state, where, summary)
                    done[key] = outcome(chain, experiment, state, log, where, summary)
            if not lead:
                return 0
            resume.save(place, experiment, Window((done["accelerated"].state,)))
            report.write(place, done, prompt=experiment.prompt, timing=TIMING, shown=SHOWN)
    except STOPS as stop:
        if isinstance(stop, RankFailed) and lead:
            print(stop.traceback, file=sys.stderr)
        if lead:
            print(report.unfinished(stop, place, done), file=sys.stderr)
        return 1
    return 0


def warm_up(process: Any, experiment: Experiment, first: State, communicator: Communicator) -> None:
    """Take both ways once, so that what happens only the first time is on nobody's clock."""
    steps = experiment.config.trainer.max_steps
    with coordination.main_process_first(communicator, "warm up") as mine:
        if mine:
            dp.solve_sequential(process, first.step + 1, state=first)
    window = min(experiment.config.parallel.window, steps)
    dp.solve(
        process,
        first.step + window,
        state=first,
        **solve_options(process, experiment.config.parallel, communicator),
    )


def outcome(
    process: Any, experiment: Experiment, state: State, log: RoundLog, place: Path, summary: dict[str, Any]
) -> Outcome:
    """A run whose files lie in its folder, as the report takes it."""
    return Outcome(
        summary,
        log,
        state,
        list(views_of(process, state, experiment, VIEWS)),
        (place / "turntable.gif").read_bytes(),
        (place / "views.png").read_bytes(),
    )
