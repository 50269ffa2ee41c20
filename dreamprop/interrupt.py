"""Ctrl-C and SIGTERM as an exception that comes only where nothing is half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Interrupted(BaseException):
    """The user or the system asked the run to end.

    Args:
        signum: SIGINT or SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class Guard:
    """While it is open, SIGINT and SIGTERM raise `Interrupted`; inside `hold` they wait for its end."""

    def __init__(self) -> None:
        self._held = 0
        self._pending: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _caught(self, signum: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = signum
        else:
            raise Interrupted(signum)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A block that a signal does not cut in two; the signal is obeyed right after it."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending is not None and not self._held:
            signum, self._pending = self._pending, None
            raise Interrupted(signum)
