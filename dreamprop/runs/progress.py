"""What a run shows while it works: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from dreamprop.runs.loop import Callback
from dreamprop.solver.solution import Round
from dreamprop.state import State

PLAIN_SECONDS = 10.0
"""Seconds between two plain lines where there is no terminal."""


class Progress(Callback):
    """Step, rounds, stride, error and time left of one run, on standard error.

    Args:
        label: what runs.
        first: step that the run begins at.
        last: step that it arrives at.
        rounds: rounds taken before `first`.
    """

    def __init__(self, label: str, first: int, last: int, rounds: int = 0) -> None:
        self.label, self.first, self.last, self.rounds = label, first, last, rounds
        self._began = self._told = time.monotonic()
        self._console = Console(file=sys.stderr)
        self._bar: progress.Progress | None = None
        if self._console.is_terminal:
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("rounds {task.fields[rounds]}  stride {task.fields[stride]}"),
                progress.TextColumn("error {task.fields[error]:.2f}"),
                progress.TimeRemainingColumn(),
                console=self._console,
            )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(
                self.label, total=self.last, completed=self.first, rounds=self.rounds, stride=0, error=0.0
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def on_end(self, state: State) -> None:
        """Take the bar off the terminal when the last step is taken: what follows is printed below it."""
        if self._bar and state.step >= self.last:
            self._bar.stop()

    def on_round(self, round: Round) -> None:
        """Show what a round did."""
        self.rounds += 1
        error = max(round.errors[: round.stride], default=0.0)
        if self._bar:
            self._bar.update(
                self._task, completed=round.step, rounds=self.rounds, stride=round.stride, error=error
            )
            return
        now = time.monotonic()
        if now - self._told >= PLAIN_SECONDS or round.step >= self.last:
            self._told = now
            left = (now - self._began) / max(round.step - self.first, 1) * (self.last - round.step)
            print(
                f"{self.label}: step {round.step}/{self.last}, rounds {self.rounds}, stride {round.stride}, "
                f"error {error:.2f}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
