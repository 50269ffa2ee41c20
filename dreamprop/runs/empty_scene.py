"""Whether a scene still holds anything: said once, with the step, where it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable

PATIENCE = 32
"""Steps in a row whose renders have no samples before that is told."""


class Emptiness:
    """Warns on one line when a run's result becomes empty.

    Args:
        least: a scene that holds no more than this is empty.
        unit: of what is measured, as ``occupied cells``.
        write: takes the line; standard error by default.
    """

    def __init__(
        self,
        least: float,
        unit: str,
        write: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.least, self.unit, self.warned = least, unit, False
        self._write = write
        self._in_a_row = 0

    def look(self, step: int, held: float) -> None:
        """Take how much the scene that enters a step holds; the warning comes once a run."""
        if held <= self.least:
            self._warn(f"the scene is empty at step {step}: {self.unit} {held:g}")

    def rendered(self, step: int, samples: bool) -> None:
        """Take whether the render of an accepted step had any samples, step by step."""
        self._in_a_row = 0 if samples else self._in_a_row + 1
        if self._in_a_row >= PATIENCE:
            self._warn(f"no ray met the scene in the last {PATIENCE} steps up to step {step}")

    def _warn(self, what: str) -> None:
        if not self.warned:
            self.warned = True
            self._write(
                f"warning: {what}; what follows shows no object: lower the learning rate or the losses that thin "
                "the scene, or take more steps before them"
            )
