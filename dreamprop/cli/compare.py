"""`--compare`: the sequential and the accelerated run of one config, and a yardstick for their difference."""

import copy
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import dreamprop as dp
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs import directory, loop, resume, window_log
from dreamprop.runs.artifacts import report
from dreamprop.runs.artifacts.judgement import judge_views
from dreamprop.runs.artifacts.result import write_result
from dreamprop.runs.artifacts.views import views_of
from dreamprop.runs.begin import open_folder
from dreamprop.runs.experiment import Experiment, make_process, tagged
from dreamprop.runs.outcome import VIEWS, Outcome
from dreamprop.runs.recording import recording
from dreamprop.runs.stops import STOPS, trace
from dreamprop.runs.summary import summarize
from dreamprop.solver.window import Window
from dreamprop.solver.window_choice import Windows
from dreamprop.state import State
from dreamprop.utils import atomic_io
from dreamprop.utils.device import device_of
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
    config, lead = experiment.config, communicator.rank == 0
    accelerated = loop.RunSettings(config.parallel, config.trainer.max_steps)
    window_log.check(accelerated.window, communicator)
    process = coordination.run_on_all(communicator, lambda: make_process(experiment))
    loop.check(process, accelerated, communicator)
    other = copy.copy(process)  # the same model and scene, with noise of another seed
    other.seed = config.seed + 1
    opened = coordination.run_on_main(communicator, lambda: open_folder(experiment.tree))
    place = Path(communicator.all_gather_object(str(opened) if opened else None)[0])
    if lead:
        print(f"writing to {place}")
    first = process.init()
    warm_up(process, accelerated, first, communicator)
    sequential = replace(accelerated, sequential=True)
    runs = {
        "baseline": (process, sequential, place / "baseline"),
        "accelerated": (process, accelerated, place),
        "other_noise": (other, sequential, place / "other_noise"),
    }
    done: dict[str, Outcome] = {}
    try:
        with directory.held(place) if lead else nullcontext(), Guard() as guard:
            for key, (chain, settings, where) in runs.items():
                alone = settings.sequential
                windows = window_log.open_windows(settings.window, communicator, where)
                if not lead and not alone:
                    loop.run(chain, Window((first,)), settings, communicator, guard=guard, windows=windows)
                with (
                    coordination.main_process_first(communicator, key) if alone else nullcontext(lead) as mine
                ):
                    if mine:
                        done[key] = _made(
                            experiment, chain, first, settings, where, communicator, windows, guard
                        )
            if not lead:
                return 0
            window = Window((done["accelerated"].state,))
            resume.save(place, tagged(experiment.tree, place.name), config.checkpoint.keep, window)
            report.write(place, done, prompt=experiment.prompt, timing=TIMING, shown=SHOWN)
    except STOPS as stop:
        if lead:
            trace(stop)
            print(report.unfinished(stop, place, done), file=sys.stderr)
        return 1
    return 0


def warm_up(process: Any, settings: loop.RunSettings, first: State, communicator: Communicator) -> None:
    """Take both ways once, so that what happens only the first time is on nobody's clock."""
    with coordination.main_process_first(communicator, "warm up") as mine:
        if mine:
            dp.solve_sequential(process, first.step + 1, state=first)
    window = min(settings.warm_up, settings.num_steps)
    options = loop.solve_options(process, settings, communicator) | {"window": window}
    dp.solve(process, first.step + window, state=first, **options)


def _made(
    experiment: Experiment,
    process: Any,
    first: State,
    settings: loop.RunSettings,
    place: Path,
    communicator: Communicator,
    windows: Windows,
    guard: Guard,
) -> Outcome:
    """One of the runs, in its folder, as the report takes it."""
    config, device = experiment.config, device_of(experiment.config.device)
    atomic_io.make_folder(place)
    with recording(place, first.step, settings, device) as record:
        state = loop.run(
            process, Window((first,)), settings, communicator, record.callbacks, guard=guard, windows=windows
        )
    summary = summarize(
        process, state, settings, record, communicator, windows,
        prompt=experiment.prompt, method=experiment.method, seed=process.seed,
    )  # fmt: skip
    views, mesh = write_result(process, state, config.output, config.export, device, place)
    summary |= {"judge": judge_views(experiment.judged, views), "mesh": mesh}
    atomic_io.write_json(place / "summary.json", summary)
    return Outcome(
        summary,
        record.log,
        state,
        list(views_of(process, state, config.output, VIEWS)),
        (place / "turntable.gif").read_bytes(),
        (place / "views.png").read_bytes(),
    )
