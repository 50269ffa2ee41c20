"""What a run shows while it works: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dreamprop.solver.solution import Round

PLAIN_SECONDS = 10.0
"""Seconds between two plain lines where there is no terminal."""


class Bar:
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
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rounds {task.fields[rounds]}  stride {task.fields[stride]}"),
                TextColumn("error {task.fields[error]:.2f}"),
                TimeRemainingColumn(),
                console=self._console,
            )

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
            self._task = self._progress.add_task(
                self.label, total=self.last, completed=self.first, rounds=self.rounds, stride=0, error=0.0
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, round: Round) -> None:
        """Show what a round did."""
        self.rounds += 1
        error = max(round.errors[: round.stride], default=0.0)
        if self._progress:
            self._progress.update(
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
