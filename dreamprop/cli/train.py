"""`--train`: one run in its folder, from the arguments to the lines printed."""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dreamprop.config.loader import InputError
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.errors import RankLost
from dreamprop.runs import loop, resume, window_log
from dreamprop.runs.artifacts.judgement import judge_views
from dreamprop.runs.artifacts.result import write_result
from dreamprop.runs.artifacts.views import write_preview
from dreamprop.runs.begin import Begun, begin
from dreamprop.runs.callbacks import Checkpointing, Preview, StopOnSignal, WatchForEmptiness
from dreamprop.runs.command import command
from dreamprop.runs.empty_scene import Emptiness
from dreamprop.runs.experiment import Experiment, make_process
from dreamprop.runs.recording import recording
from dreamprop.runs.stops import STOPS, tell, trace
from dreamprop.runs.summary import summarize
from dreamprop.solver import audit
from dreamprop.solver.window_choice import Windows
from dreamprop.utils import atomic_io
from dreamprop.utils.device import device_of
from dreamprop.utils.signals import Guard

EMPTY = 0.005
"""Mean opacity of a picture in which there is nothing to see."""


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
    config, lead = experiment.config, communicator.rank == 0
    settings = loop.RunSettings(config.parallel, config.trainer.max_steps, sequential)
    window_log.check(settings.window, communicator)
    process = coordination.run_on_all(communicator, lambda: make_process(experiment))
    loop.check(process, settings, communicator)
    with ExitStack() as held:
        device = device_of(config.device)
        begun = begin(process, experiment.tree, device, communicator, go_on, held)
        if lead:
            print(f"writing to {begun.place}")
        windows = window_log.open_windows(
            settings.window, communicator, begun.place, begun.window.states[0].step
        )
        save = partial(resume.save, begun.place, begun.tree, config.checkpoint.keep)
        checkpointing = Checkpointing(save, config.checkpoint, begun.window, lead)
        go_on_by = command(begun.place, sequential, communicator.size)
        with Guard(together=communicator.size > 1) as guard:
            try:
                summary = _run(
                    process, begun, experiment, settings, communicator, windows, checkpointing, guard
                )
            except InputError as error:
                raise InputError(f"{error}; {_kept(checkpointing, begun.place, go_on_by)}") from error
            except BaseException as stop:
                if lead:
                    trace(stop)
                # Whatever ended the run, what it had accepted is worth keeping.
                checkpointing.save()
                if lead or (isinstance(stop, RankLost) and communicator.rank == _spokesman(stop)):
                    tell(stop, f"{_saved(begun.place)} of {settings.num_steps}", go_on_by)
                if isinstance(stop, STOPS):
                    return 1
                raise
        if summary is not None:
            _show(summary, begun.place, sequential)
    return 0


def _run(
    process: Any,
    begun: Begun,
    experiment: Experiment,
    settings: loop.RunSettings,
    communicator: Communicator,
    windows: Windows,
    checkpointing: Checkpointing,
    guard: Guard,
) -> dict[str, Any] | None:
    """Solve the chain and show what came out; the summary, on the first process."""
    config, place, lead = experiment.config, begun.place, communicator.rank == 0
    every, size = config.output.preview_every_n_steps, config.output.preview_size

    def draw(state: Any) -> None:
        write_preview(process, state, size, place)

    callbacks: list[loop.Callback] = [checkpointing]
    if hasattr(process, "opacity"):
        callbacks.append(WatchForEmptiness(Emptiness(EMPTY, "mean opacity"), process.opacity, every, lead))
    callbacks += [Preview(draw, every, lead), StopOnSignal(guard)]
    if not lead:
        loop.run(process, begun.window, settings, communicator, callbacks, guard=guard, windows=windows)
        return None
    device = device_of(config.device)
    with recording(place, begun.window.states[0].step, settings, device) as record:
        callbacks[:0] = record.callbacks
        state = loop.run(
            process, begun.window, settings, communicator, callbacks, guard=guard, windows=windows
        )
        guard.together = False  # the others are done
        guard.obey()
        summary = summarize(
            process, state, settings, record, communicator, windows,
            prompt=experiment.prompt, method=experiment.method, seed=config.seed,
        )  # fmt: skip
        views, mesh = write_result(process, state, config.output, config.export, device, place)
        summary |= {"judge": judge_views(experiment.judged, views), "mesh": mesh}
        atomic_io.write_json(place / "summary.json", summary)
        (place / "preview.png").unlink(missing_ok=True)
    return summary


def _show(summary: Mapping[str, Any], place: Path, sequential: bool) -> None:
    """Print what a run came to, and its files."""
    if summary["rounds"] is None:
        print(f"{summary['steps']} steps; how many rounds they took is not known")
    else:
        print(f"{summary['steps']} steps in {summary['rounds']} rounds and {summary['wall_seconds']:.1f} s")
        if summary["speedup"] is not None:
            rate = f"{summary['speedup_rounds']:.1f} steps a round"
            print(f"{rate}, {summary['speedup']:.2f} times as fast as plain steps, timed on the way")
    if not sequential and summary["audit"] is not None:
        print(audit.line(summary["audit"]))
    if summary["skipped"]:
        print(f"{summary['skipped']} updates were skipped because a gradient was not finite")
    if judge := summary["judge"]:
        print(f"the judge names the prompt in {judge['correct']} of {judge['views']} views")
    for name in ("turntable.gif", "views.png", *summary["mesh"], "summary.json"):
        print(f"  {place / name}")


def _spokesman(lost: RankLost) -> int:
    """The first rank that is not lost: the one that tells of it."""
    return next((rank for rank in range(len(lost.ranks) + 1) if rank not in lost.ranks), 0)


def _saved(place: Path) -> str:
    """Say up to which step there is a checkpoint."""
    try:
        return f"saved step {resume.step_of(resume.newest(place))}"
    except InputError:
        return "no step was saved"


def _kept(checkpointing: Checkpointing, place: Path, go_on_by: str) -> str:
    """After a disk refused: save if it can be, and say what there is to go on from."""
    with suppress(InputError):
        checkpointing.save()
    try:
        return f"{resume.newest(place).name} is kept, go on with: {go_on_by}"
    except InputError:
        return "no checkpoint could be saved"
