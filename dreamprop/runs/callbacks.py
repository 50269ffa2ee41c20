"""What runs do after their rounds, one idea a class: save, draw, look whether anything is left to see, stop."""

import time
from collections.abc import Callable

from dreamprop.runs.config import CheckpointConfig
from dreamprop.runs.empty_scene import Emptiness
from dreamprop.runs.loop import Callback
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils.signals import Guard, Interrupted


def passed(round: Round, every: int) -> bool:
    """Whether a round came to a multiple of so many steps or beyond it, before the end of the run; 0: never."""
    return (
        every > 0
        and round.step // every > (round.step - round.stride) // every
        and round.step < round.num_steps
    )


class Checkpointing(Callback):
    """Saves what was accepted: every so many steps or seconds, at the end, and whenever it is asked to.

    Args:
        save: writes a window to the disk.
        config: how often.
        window: what the run begins from.
        lead: whether this is the process that writes.
    """

    def __init__(
        self, save: Callable[[Window], object], config: CheckpointConfig, window: Window, lead: bool
    ) -> None:
        self.window = window
        """The last accepted state with what lies ahead of it; in layout `sharded` the last one brought together."""
        self._save, self._config, self._lead = save, config, lead
        self._saved: int | None = None
        self._when = time.monotonic()

    def due(self, round: Round) -> bool:
        """Whether it is time, by the clock of the process that writes or by steps."""
        late = 0 < self._config.train_time_interval <= time.monotonic() - self._when
        return (self._lead and late) or passed(round, self._config.every_n_train_steps)

    def on_window(self, window: Window) -> None:
        """Keep what was accepted."""
        self.window = window

    def on_due(self, round: Round) -> None:
        """Save what was accepted."""
        self.save()

    def on_end(self, state: State) -> None:
        """Save the last state."""
        self.window = Window((state,))
        self.save()

    def save(self) -> None:
        """Save what was accepted last, unless it is saved already."""
        self._when = time.monotonic()
        step = self.window.states[0].step
        if self._lead and step != self._saved:
            self._save(self.window)
            self._saved = step


class Preview(Callback):
    """Draws the accepted state every so many steps.

    Args:
        draw: makes the picture.
        every: steps between two pictures; 0: none.
        lead: whether this is the process that writes.
    """

    def __init__(self, draw: Callable[[State], object], every: int, lead: bool) -> None:
        self._draw, self._every, self._lead = draw, every, lead

    def due(self, round: Round) -> bool:
        """Whether a picture is due."""
        return passed(round, self._every)

    def on_due(self, round: Round) -> None:
        """Draw the accepted state."""
        state = round.state
        if self._lead:
            self._draw(state)


class WatchForEmptiness(Preview):
    """Warns, once, if nothing is left of the scene: looks when a preview is drawn, and at the end.

    Args:
        emptiness: says it.
        held: how much a state still shows.
        every: steps between two looks; 0: at the end only.
        lead: whether this is the process that looks.
    """

    def __init__(self, emptiness: Emptiness, held: Callable[[State], float], every: int, lead: bool) -> None:
        super().__init__(lambda state: emptiness.look(state.step, held(state)), every, lead)

    def on_end(self, state: State) -> None:
        """Look at the result."""
        if self._lead:
            self._draw(state)


class StopOnSignal(Callback):
    """Ends the run on all processes at the same round when one of them got a signal.

    Args:
        guard: tells of signals.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def due(self, round: Round) -> bool:
        """Whether a signal waits."""
        return self._guard.asked is not None

    def on_due(self, round: Round) -> None:
        """End the run.

        Raises:
            Interrupted: always.
        """
        raise Interrupted(self._guard.asked)
