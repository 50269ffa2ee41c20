"""One run in its folder: solved, watched, saved, and shown."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreamprop import files, folder, mesh, pictures, resume
from dreamprop.build import Experiment, device_of, make_process, retag
from dreamprop.config import InputError
from dreamprop.evolve import evolve
from dreamprop.export import write_mesh
from dreamprop.interrupt import Guard, Interrupted
from dreamprop.process import NonFiniteDrift
from dreamprop.roundlog import RoundLog
from dreamprop.show import present
from dreamprop.solution import Round
from dreamprop.state import State, to
from dreamprop.summary import summarize


class Watch:
    """What a run does after a round: take its state, save and draw when it is time.

    Args:
        process: for the previews.
        experiment: how often.
        place: the folder of the run.
        state: the state the run begins at.
    """

    def __init__(self, process: Any, experiment: Experiment, place: Path, state: State) -> None:
        self.process, self.experiment, self.place = process, experiment, place
        self.state = state
        """The last accepted state."""

    def __call__(self, round: Round) -> None:
        """Take the state of a round."""
        before, self.state = self.state.step, round.state
        config = self.experiment.config

        def due(every: int) -> bool:
            return every > 0 and round.step // every > before // every and round.step < round.num_steps

        if due(config.checkpoint.every_n_train_steps):
            self.save()
        if due(config.output.preview_every_n_steps):
            size = config.output.view_size
            views = self.process.render_views(self.state, num_views=4, width=size, height=size)
            pictures.write_bytes(self.place / "preview.png", pictures.png(pictures.side_by_side(views)))

    def save(self) -> Path:
        """Save the last accepted state."""
        return resume.save(self.place, self.experiment, self.state)


def train(experiment: Experiment, *, sequential: bool = False, go_on: Path | None = None) -> int:
    """Run a config, or go on with a run, and write everything a run writes.

    Args:
        experiment: the checked config.
        sequential: step by step: the baseline.
        go_on: the folder of an earlier run, or one of its checkpoints.

    Returns:
        The exit status: 0; 1 when a signal interrupted the run or a drift was not finite.

    Raises:
        InputError: a setting, a checkpoint or the disk is wrong.
    """
    if go_on:
        place, state = resume.load(experiment, go_on)
        process = make_process(experiment)
        state = to(state, device_of(experiment.config.device))
    else:
        process = make_process(experiment)
        experiment, place = open_folder(experiment)
        state = process.init()
    print(f"writing to {place}")
    watch = Watch(process, experiment, place, state)
    try:
        with Guard() as guard, RoundLog(place, state.step) as log:
            watch.state = evolve(
                process, experiment, log, sequential=sequential, state=state, watch=watch, guard=guard
            )
            with guard.hold():
                watch.save()
            summary = summarize(process, experiment, watch.state, log, sequential=sequential)
            summary["judge"] = present(process, watch.state, experiment, place)
            summary["mesh"] = _write_mesh(process, watch.state, experiment, place)
            files.write_json(place / "summary.json", summary)
            (place / "preview.png").unlink(missing_ok=True)
    except InputError as error:
        raise InputError(f"{error}; {_kept(watch, sequential)}") from error
    except BaseException as stop:
        # Whatever ended the run, what it had accepted is worth keeping.
        watch.save()
        step, steps = watch.state.step, experiment.config.trainer.max_steps
        command = resume.command(place, sequential)
        print(f"{stop}\nsaved step {step} of {steps}; go on with:\n  {command}", file=sys.stderr)
        if isinstance(stop, Interrupted | NonFiniteDrift):
            return 1
        raise
    print(f"{summary['steps']} steps in {summary['rounds']} rounds and {summary['wall_seconds']:.1f} s")
    if judge := summary["judge"]:
        print(f"the judge names the prompt in {judge['correct']} of {judge['views']} views")
    for name in ("turntable.gif", "views.png", *summary["mesh"], "summary.json"):
        print(f"  {place / name}")
    return 0


def open_folder(experiment: Experiment) -> tuple[Experiment, Path]:
    """Make the folder of a new run and write its config there.

    Returns:
        The experiment under the tag that the folder got, and the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    config = experiment.config
    place = folder.claim(Path(config.exp_root_dir), config.name, config.tag)
    experiment = retag(experiment, place.name)
    files.write_text(place / "config.yaml", OmegaConf.to_yaml(experiment.tree))
    return experiment, place


def _kept(watch: Watch, sequential: bool) -> str:
    """After a disk refused: save if it can be, and say what there is to go on from."""
    with suppress(InputError):
        watch.save()
    command = resume.command(watch.place, sequential)
    try:
        return f"{resume.newest(watch.place).name} is kept, go on with: {command}"
    except InputError:
        return "no checkpoint could be saved"


def _write_mesh(process: Any, state: State, experiment: Experiment, place: Path) -> list[str]:
    """The mesh at the end of a run; a scene without a surface is told, but no error of the run."""
    try:
        return [path.name for path in write_mesh(process, state, experiment, place)]
    except mesh.EmptySurface as error:
        print(f"no mesh: {error}", file=sys.stderr)
        return []
