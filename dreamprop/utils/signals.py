"""Ctrl-C, SIGTERM and SIGHUP as an exception that comes only where nothing is half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

LIMIT = 15.0
"""Seconds until a signal is obeyed without the others; `torchrun` kills what has not ended after 30."""


class Interrupted(BaseException):
    """The user or the system asked the run to end.

    Args:
        signum: SIGINT, SIGTERM or SIGHUP; none where another process got it.
    """

    def __init__(self, signum: int | None = None) -> None:
        super().__init__(
            f"interrupted by {signal.Signals(signum).name if signum else 'a signal to another process'}"
        )
        self.signum = signum


class Guard:
    """While it is open, SIGINT, SIGTERM and SIGHUP raise `Interrupted`; inside `hold` they wait for its end.

    Args:
        together: several processes must stop at the same place: a first signal waits in `asked` for them to agree on
            one, for `LIMIT` seconds at most; a second one is obeyed at once.
    """

    def __init__(self, together: bool = False) -> None:
        self.together = together
        self._held = 0
        self._pending: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for signum in (*_ends(), *((signal.SIGALRM,) if self.together else ())):
            self._before[signum] = signal.signal(signum, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    @property
    def asked(self) -> int | None:
        """The signal that waits to be obeyed."""
        return self._pending

    def _caught(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGALRM:
            self.together = False
            self.obey()
        elif self._held or (self.together and self._pending is None):
            self._pending = signum
            if self.together:
                signal.setitimer(signal.ITIMER_REAL, LIMIT)
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
        if not self.together:
            self.obey()

    def obey(self) -> None:
        """Raise `Interrupted` where a signal waits."""
        if self._pending is not None and not self._held:
            signum, self._pending = self._pending, None
            raise Interrupted(signum)


def _ends() -> list[int]:
    """The signals that end a run: a closed terminal too, unless `nohup` has it ignored."""
    found: list[int] = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found
