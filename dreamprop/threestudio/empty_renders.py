"""Renders without samples: counted instead of told once a render.

threestudio logs "Empty rays_indices!" for each; where a guess is far off that may be many, none of which says
anything of what was accepted.
"""

from __future__ import annotations

import logging
import threading

WORDS = "Empty rays_indices!"


class EmptyRenders(logging.Filter):
    """Keeps the words from the log and counts them, each thread for itself: a step runs in one thread."""

    def __init__(self) -> None:
        super().__init__()
        self._mine = threading.local()

    @property
    def count(self) -> int:
        """How many renders without samples there have been in this thread so far."""
        return getattr(self._mine, "count", 0)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be shown."""
        if record.getMessage() != WORDS:
            return True
        self._mine.count = self.count + 1
        return False


EMPTY_RENDERS = EmptyRenders()


def count_empty_renders(logger: str = "pytorch_lightning") -> EmptyRenders:
    """Put the filter before threestudio's logger, if it is not there yet.

    Returns:
        The filter, which counts.
    """
    known = logging.getLogger(logger)
    if EMPTY_RENDERS not in known.filters:
        known.addFilter(EMPTY_RENDERS)
    return EMPTY_RENDERS
