"""What ends a run early without being a defect of the program, and how it is told."""

import sys

from dreamprop.errors import NonFiniteDrift, RankFailed, RankLost
from dreamprop.utils.signals import Interrupted

STOPS = (Interrupted, NonFiniteDrift, RankFailed, RankLost, MemoryError)
"""What ends a run and is told in a line; anything else shows where it came from."""


def tell(stop: BaseException, kept: str, command: str) -> None:
    """Say what ended a run, what is kept of it, and the command that goes on.

    Args:
        stop: what ended it.
        kept: up to where it is saved.
        command: how to go on.
    """
    print(f"{stop}\n{kept}; go on with:\n  {command}", file=sys.stderr, flush=True)


def trace(stop: BaseException) -> None:
    """Show where another process failed, if that is what ended a run."""
    if isinstance(stop, RankFailed):
        print(stop.traceback, file=sys.stderr, flush=True)
