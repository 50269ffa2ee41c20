"""What a run does after a round: settle with the other processes whether to stop, save and draw when it is time."""

import sys
import time
from pathlib import Path
from typing import Any

from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.layout import REPLICATED
from dreamprop.runs import resume
from dreamprop.runs.artifacts import images
from dreamprop.runs.empty_scene import Emptiness
from dreamprop.runs.experiment import Experiment
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils import atomic_io
from dreamprop.utils.signals import Guard, Interrupted

EMPTY = 0.005
"""Mean opacity of a picture in which there is nothing to see."""


class RunCallback:
    """Follows a run, on every rank; the first one writes.

    Args:
        process: for the previews.
        experiment: how often.
        place: the folder of the run.
        window: what the run begins from.
        communicator: the processes of the run.
        guard: tells of signals.
    """

    def __init__(
        self,
        process: Any,
        experiment: Experiment,
        place: Path,
        window: Window,
        communicator: Communicator,
        guard: Guard,
    ) -> None:
        self.process, self.experiment, self.place, self.communicator, self.guard = (
            process,
            experiment,
            place,
            communicator,
            guard,
        )
        self.window = window
        """The last accepted state with what lies ahead of it; in layout `sharded` the last one brought together."""
        self._step = window.states[0].step
        self._saved: int | None = None
        self._emptiness = Emptiness(EMPTY, "mean opacity")
        self._when = time.monotonic()

    def __call__(self, round: Round) -> None:
        """Take what a round found.

        Raises:
            Interrupted: a signal reached one of the processes; what was accepted is in `window`.
        """
        config = self.experiment.config
        before, self._step = self._step, round.step

        def due(every: int) -> bool:
            return every > 0 and round.step // every > before // every and round.step < round.num_steps

        interval = config.checkpoint.train_time_interval
        late = self.communicator.rank == 0 and 0 < interval <= time.monotonic() - self._when
        stop, late = self.communicator.any(self.guard.asked is not None, late)
        save = late or due(config.checkpoint.every_n_train_steps)
        if stop or save or round.layout is REPLICATED:
            self.window = round.window
        if save:
            self.save()
        if due(config.output.preview_every_n_steps):
            state, size = round.state, config.output.view_size
            if self.communicator.rank == 0:
                self.look(state)
                views = self.process.render_views(state, num_views=4, width=size, height=size)
                images.write_bytes(self.place / "preview.png", images.png(images.side_by_side(views)))
        if stop:
            raise Interrupted(self.guard.asked)

    def look(self, state: State) -> None:
        """Warn, once, if nothing is left of the scene."""
        if hasattr(self.process, "opacity"):
            self._emptiness.look(state.step, self.process.opacity(state))

    def save(self) -> None:
        """Save the last accepted state, unless it is saved already; the first rank does it for all."""
        self._when = time.monotonic()
        step = self.window.states[0].step
        if self.communicator.rank == 0 and step != self._saved:
            if not (self.place / "config.yaml").is_file():
                print(f"note: {self.place / 'config.yaml'} vanished, and is written again", file=sys.stderr)
                atomic_io.make_folder(self.place)
                resume.keep_config(self.place, self.experiment)
            resume.save(self.place, self.experiment, self.window)
            self._saved = step
