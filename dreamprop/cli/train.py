"""One run in its folder: solved, watched, saved, and shown."""

import os
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreamprop import checkpoint
from dreamprop.cli.export import write_mesh_if_any
from dreamprop.config.loader import InputError
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.errors import RankFailed, RankLost
from dreamprop.runs import broadcast, directory, elastic, resume
from dreamprop.runs.artifacts.views import write_pictures
from dreamprop.runs.callbacks import RunCallback
from dreamprop.runs.experiment import Experiment, make_process, retag
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.parallel import check
from dreamprop.runs.solve import solve_chain
from dreamprop.runs.stops import STOPS
from dreamprop.runs.summary import summarize
from dreamprop.solver import audit
from dreamprop.solver.window import Window
from dreamprop.state import State, to
from dreamprop.utils import atomic_io
from dreamprop.utils.device import device_of
from dreamprop.utils.peak_memory import Peak
from dreamprop.utils.signals import Guard


def train(
    experiment: Experiment, communicator: Communicator, *, sequential: bool = False, go_on: Path | None = None
) -> int:
    """Run a config, or go on with a run, and write everything a run writes.

    Args:
        experiment: the checked config.
        communicator: the processes that do it together; the first one writes and prints.
        sequential: step by step: the baseline.
        go_on: the folder of an earlier run, or one of its checkpoints.

    Returns:
        The exit status: 0; 1 when a signal interrupted the run, a drift was not finite or a process failed.

    Raises:
        InputError: a setting, a checkpoint or the disk is wrong.
    """
    if sequential and communicator.size > 1:
        raise InputError(
            f"--baseline must run in one process, got {communicator.size}; start it without torchrun"
        )
    process = coordination.run_on_all(communicator, lambda: make_process(experiment))
    check(process, experiment.config.parallel, communicator)
    with ExitStack() as kept:
        begun = coordination.run_on_main(communicator, lambda: _begin(experiment, process, go_on, kept))
        return _train(experiment, process, communicator, begun, sequential)


def _train(
    experiment: Experiment,
    process: Any,
    communicator: Communicator,
    begun: tuple[Path, str, Window | None] | None,
    sequential: bool,
) -> int:
    """Go on from where a run has begun, to its end."""
    place, tag = communicator.all_gather_object([str(begun[0]), begun[1]] if begun else None)[0]
    place, experiment = Path(place), retag(experiment, tag)
    window = broadcast.broadcast_window(communicator, begun[2] if begun else None)
    device = device_of(experiment.config.device)
    if window is None:
        window = Window((process.init(),))
    trend = {name: step.to(device) for name, step in window.trend.items()}
    window = replace(window, states=tuple(to(state, device) for state in window.states), trend=trend)
    first = window.states[0].step
    lead = communicator.rank == 0
    if lead:
        print(f"writing to {place}")
    with Guard(together=communicator.size > 1) as guard:
        callback = RunCallback(process, experiment, place, window, communicator, guard)
        try:
            if not lead:
                solve_chain(
                    process,
                    experiment,
                    None,
                    communicator,
                    sequential=sequential,
                    begin=window,
                    guard=guard,
                    callback=callback,
                )
                return 0
            with RoundLog(place, first) as log:
                if not log.complete:
                    print(
                        f"note: {log.path} must hold the rounds up to step {first}, got {len(log.rows)} of them; "
                        "what all rounds took is not known",
                        file=sys.stderr,
                    )
                with Peak(device) as peak:
                    state = solve_chain(
                        process,
                        experiment,
                        log,
                        communicator,
                        sequential=sequential,
                        begin=window,
                        guard=guard,
                        callback=callback,
                    )
                guard.together = False
                callback.window = Window((state,))
                with guard.hold():
                    callback.save()
                callback.look(state)
                summary = summarize(process, experiment, state, log, communicator, sequential=sequential)
                summary["peak_memory_bytes"] = peak.bytes
                conclude(process, experiment, state, place, summary)
                (place / "preview.png").unlink(missing_ok=True)
        except InputError as error:
            raise InputError(f"{error}; {_kept(callback, sequential)}") from error
        except BaseException as stop:
            if lead and isinstance(stop, RankFailed):
                print(stop.traceback, file=sys.stderr, flush=True)
            # Whatever ended the run, what it had accepted is worth keeping.
            callback.save()
            if lead or (isinstance(stop, RankLost) and communicator.rank == _spokesman(stop)):
                steps = experiment.config.trainer.max_steps
                command = resume.command(place, sequential, communicator.size)
                print(
                    f"{stop}\n{_saved(callback)} of {steps}; go on with:\n  {command}",
                    file=sys.stderr,
                    flush=True,
                )
            if isinstance(stop, STOPS):
                return 1
            raise
    if summary["rounds"] is None:
        print(f"{summary['steps']} steps; how many rounds they took is not known")
    else:
        print(f"{summary['steps']} steps in {summary['rounds']} rounds and {summary['wall_seconds']:.1f} s")
    if not sequential and summary["audit"] is not None:
        print(audit.line(summary["audit"]))
    if summary["skipped"]:
        print(f"{summary['skipped']} updates were skipped because a gradient was not finite")
    if judge := summary["judge"]:
        print(f"the judge names the prompt in {judge['correct']} of {judge['views']} views")
    for name in ("turntable.gif", "views.png", *summary["mesh"], "summary.json"):
        print(f"  {place / name}")
    return 0


def conclude(
    process: Any, experiment: Experiment, state: State, place: Path, summary: dict[str, Any]
) -> None:
    """Show the result of a run in its folder, and write its summary with what came of that."""
    summary["judge"] = write_pictures(process, state, experiment, place)
    summary["mesh"] = write_mesh_if_any(process, state, experiment, place)
    atomic_io.write_json(place / "summary.json", summary)


def _begin(
    experiment: Experiment, process: Any, go_on: Path | None, kept: ExitStack
) -> tuple[Path, str, Window | None]:
    """The folder of the run, which is kept from others, its tag, and what it goes on from if anything."""
    go_on = go_on or elastic.begun(experiment)
    if go_on is None:
        experiment, place = open_folder(experiment)
        kept.enter_context(directory.held(place))
        elastic.mark(place)
        return place, place.name, None
    if os.path.isdir(place := resume.place_of(go_on)):
        kept.enter_context(directory.held(place))
        for half in (place, place / "checkpoints"):  # what a kill left there
            checkpoint.sweep(half)
    place, window, notes = resume.load(experiment, process, go_on)
    resume.keep_config(place, experiment)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return place, experiment.config.tag, window


def _spokesman(lost: RankLost) -> int:
    """The first rank that is not lost: it tells."""
    return next((rank for rank in range(len(lost.ranks) + 1) if rank not in lost.ranks), 0)


def _saved(callback: RunCallback) -> str:
    """Up to where there is a checkpoint."""
    try:
        return f"saved step {resume.step_of(resume.newest(callback.place))}"
    except InputError:
        return "no step was saved"


def open_folder(experiment: Experiment) -> tuple[Experiment, Path]:
    """Make the folder of a new run and write its config there.

    Returns:
        The experiment under the tag that the folder got, and the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    config = experiment.config
    place = directory.claim(Path(config.exp_root_dir), config.name, config.tag)
    experiment = retag(experiment, place.name)
    atomic_io.write_text(place / "config.yaml", OmegaConf.to_yaml(experiment.tree))
    return experiment, place


def _kept(callback: RunCallback, sequential: bool) -> str:
    """After a disk refused: save if it can be, and say what there is to go on from."""
    with suppress(InputError):
        callback.save()
    command = resume.command(callback.place, sequential, callback.communicator.size)
    try:
        return f"{resume.newest(callback.place).name} is kept, go on with: {command}"
    except InputError:
        return "no checkpoint could be saved"
