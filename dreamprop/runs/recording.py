"""What the process that writes keeps of the rounds of a run: lines, a bar, and the peak of its memory."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamprop.runs.loop import Callback, RunSettings
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.progress import Progress
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils.peak_memory import Peak


class PeakMemory(Callback):
    """Measures the most memory that the rounds of a run take, without what follows them.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak = Peak(device)
        """What was found; it grows from one `run` to the next of the same chain."""
        self._measuring = ExitStack()

    def on_begin(self, window: Window) -> None:
        """Begin to measure, or go on where the last `run` stopped."""
        self._measuring.enter_context(self.peak)

    def on_end(self, state: State) -> None:
        """Stop measuring: what is saved and drawn from here on does not count."""
        self._measuring.close()


@dataclass(frozen=True, eq=False)
class Recording:
    """What is kept of a run while it goes on."""

    log: RoundLog
    """The rounds so far, which stand in `metrics.csv` too."""
    peak: Peak
    """The most memory that the rounds so far have taken."""
    callbacks: tuple[Callback, ...]
    """What is to be given to `run`: it measures, writes and shows."""


@contextmanager
def recording(place: Path, step: int, settings: RunSettings, device: torch.device) -> Iterator[Recording]:
    """Record a run in its folder, from a step on; a note tells if the rounds before it are not known.

    Args:
        place: the folder.
        step: where the run begins; rounds beyond it, of an earlier run, are dropped.
        settings: how far the run goes, and in which way.
        device: whose memory.

    Raises:
        InputError: the disk refused.
    """
    with RoundLog(place, step) as log:
        if not log.complete:
            print(
                f"note: {log.path} must hold the rounds up to step {step}, got {len(log.rows)} of them; "
                "what all rounds took is not known",
                file=sys.stderr,
            )
        with Progress(settings.label, step, settings.num_steps, rounds=len(log.rows)) as bar:
            memory = PeakMemory(device)
            yield Recording(log, memory.peak, (memory, log, bar))
