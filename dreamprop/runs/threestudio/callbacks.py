"""What runs of threestudio's systems do after their rounds, beside what all runs do."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from dreamprop.config.loader import InputError
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.empty_scene import Emptiness
from dreamprop.runs.loop import Callback
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.purity import Purity, PurityMonitor
from dreamprop.threestudio.system import Threestudio

LOSS = "train/loss"
"""How threestudio's systems begin the names of the losses that they log."""


class HandOver(Callback):
    """Hands what was accepted to Lightning's loop, at least at the step that it waits for.

    Args:
        accept: takes it.
        target: the step.
    """

    def __init__(self, accept: Callable[[Window], None], target: int) -> None:
        self._accept, self._target = accept, target

    def due(self, round: Round) -> bool:
        """Whether the loop's step is reached."""
        return round.step == self._target

    def on_window(self, window: Window) -> None:
        """Hand over what was accepted."""
        self._accept(window)


class Report(Callback):
    """Gives what the accepted steps logged to the trainer's loggers, and warns if nothing is left to see.

    Args:
        process: the chain, which keeps what its steps logged.
        loggers: of the trainer.
        every: steps between two lines of the loggers.
        lead: whether this is the process that writes; on the others what was logged is only let go of.
    """

    def __init__(self, process: Threestudio, loggers: Sequence[Any], every: int, lead: bool) -> None:
        self.losses: dict[str, list[tuple[int, float]]] = {}
        """By name, the accepted steps and their losses."""
        self._process, self._loggers, self._every = process, loggers, every
        self._emptiness, self._lead = Emptiness(0.0, "occupied cells"), lead

    def on_round(self, round: Round) -> None:
        """Take what was logged."""
        logged = self._process.take_log(round.step)
        if not self._lead:
            return
        occupied = self._process.occupied(round.carried_states[0]) if round.step else None
        if occupied is not None:
            self._emptiness.look(round.step, occupied)
        for log in logged:
            step, metrics = log.step, log.metrics
            self._emptiness.rendered(step, not log.empty)
            for name, value in metrics.items():
                if name.startswith(LOSS):
                    self.losses.setdefault(name, []).append((step, value))
            if metrics and (step + 1) % self._every == 0:
                rates = self._process.stepper.rates(step)
                for logger in self._loggers:
                    logger.log_metrics({**metrics, **rates, "epoch": 0}, step=step)


class PurityWatch(Callback):
    """Looks now and then whether a step of the system is a function of its state.

    Args:
        process: the chain.
        strict: whether the run ends where one is not; else that is said, and it goes on.
        tolerance: relative difference that two evaluations of a step may have on a GPU.
        last: step that the run arrives at.
        communicator: the processes, which must all end together.
    """

    def __init__(
        self, process: Threestudio, strict: bool, tolerance: float, last: int, communicator: Communicator
    ) -> None:
        self._strict, self._last, self._communicator = strict, last, communicator
        self._monitor = PurityMonitor(process, tolerance)

    @property
    def seconds(self) -> float:
        """What the looks have taken so far."""
        return self._monitor.seconds

    def check(self, state: State) -> Purity:
        """Look before the first step.

        Raises:
            InputError: the step is no function of its state.
        """
        found = self._agreed(self._monitor.begin(state))
        self._heed(found, InputError)
        return found

    def due(self, round: Round) -> bool:
        """Whether it is time to look again."""
        return self._monitor.due(round.step, self._last)

    def on_due(self, round: Round) -> None:
        """Look again.

        Raises:
            NotAChain: the step is no function of its state.
        """
        self._heed(self._agreed(self._monitor.look(round.state)), NotAChain)

    def _agreed(self, found: Purity) -> Purity:
        """What the first process found that found something; all must end together."""
        told = self._communicator.all_gather_object(None if found.pure else asdict(found))
        return next((Purity(**known) for known in told if known is not None), found)

    def _heed(self, found: Purity, error: type[ValueError]) -> None:
        """End the run where a step is no function of its state, or say so."""
        if found.pure:
            return
        if self._strict:
            raise error(f"{found.line()}, or go on all the same with parallel.purity=warn")
        if self._communicator.rank == 0:
            print(f"going on all the same (parallel.purity: warn): {found.line()}", file=sys.stderr)
