"""What measured rounds say about windows that were not tried: seconds of a round, and steps that it accepts.

A round of window w takes T(w) seconds and accepts A(w) steps; the quickest window has the least T(w) / A(w), and a
plain step is T(1) / 1. T is the median of what was measured, with straight lines between; A comes from the strides of
the last rounds: one that stopped at slot k would have stopped there in any wider window. What was not measured is taken
to be as good as it can be, so that a window that might be the quickest is tried. What trying it costs is bounded, since
a window needs no more than narrower ones one after another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

RECENT = 8
"""Rounds that are looked at: what a window takes and what it accepts change on the way."""
ENOUGH = 0.02
"""Seconds for which a window must have been measured, unless it was for so many rounds: clocks are noisy."""


@dataclass(frozen=True)
class Timed:
    """A round that was as wide as it was to be."""

    window: int
    """Steps that it evaluated."""
    seconds: float
    """Wall-clock time, without audits."""
    stride: int
    """Steps that it accepted."""


@dataclass(frozen=True)
class Known:
    """Seconds and acceptance by window, as far as they were measured."""

    seconds: Mapping[int, float]
    """T, of at least one window."""
    recent: Sequence[Timed] = ()
    """Rounds that tell how many steps are accepted now."""
    doubted: frozenset[int] = field(default_factory=frozenset)
    """Windows that were not measured for long enough."""

    def time(self, window: int) -> float:
        """T(w), as good as it can be: what is doubted may be less where other windows promise less."""
        if window not in self.seconds:
            return along(self.seconds, window)
        others = {w: s for w, s in self.seconds.items() if w != window}
        if window not in self.doubted or not others:
            return self.seconds[window]
        return min(self.seconds[window], along(others, window))

    def accepted(self, window: int) -> float:
        """A(w), as good as it can be: a window that was accepted whole might have been wider."""
        if window == 1 or not self.recent:
            return float(window)
        widest = max(r.window for r in self.recent)
        fit = [r for r in self.recent if r.window >= min(window, widest)]
        return fmean(min(window, r.stride if r.stride < r.window else window) for r in fit)

    def seconds_per_step(self, window: int) -> float:
        """T(w) / A(w), as good as it can be."""
        return self.time(window) / self.accepted(window)

    def at_most(self, window: int) -> float:
        """The most that a round may take: so many rounds of the next narrower window that is known."""
        below = max((w for w in self.seconds if w <= window), default=min(self.seconds))
        return -(-window // below) * self.seconds[below]


def along(seconds: Mapping[int, float], window: int) -> float:
    """T(w) on the straight line through the nearest windows; flat where there is but one, and beyond the widest never
    less than that one's."""
    at = sorted(seconds)
    if len(at) == 1:
        return seconds[at[0]]
    pairs = list(pairwise(at))
    a, b = next((pair for pair in pairs if window < pair[1]), pairs[-1])
    slope = (seconds[b] - seconds[a]) / (b - a)
    return seconds[b] + (max(slope, 0.0) if window > b else slope) * (window - b)


def typical(seconds: Sequence[float]) -> float:
    """The median of the last, without the very first if there are more; whatever happens once happens in it."""
    return median(seconds[1:][-RECENT:] or seconds)


class History:
    """The rounds of a run so far.

    Args:
        before: seconds by window from an earlier part of the run, which rounds of this part replace.
    """

    def __init__(self, before: Mapping[int, float] | None = None) -> None:
        self._before = dict(before or {})
        self._rounds: list[Timed] = []
        self._since = 0

    def add(self, round: Timed) -> None:
        """Take a round."""
        self._rounds.append(round)

    def settle(self) -> None:
        """Let acceptance be told by the rounds from here on."""
        self._since = len(self._rounds)

    def measured(self, window: int) -> bool:
        """Whether a window was measured for long enough, here or in an earlier part of the run."""
        seconds = [r.seconds for r in self._rounds if r.window == window]
        enough = len(seconds) > 1 and (len(seconds) >= RECENT or sum(seconds[1:]) >= ENOUGH)
        return enough or window in self._before

    def fresh(self, window: int) -> bool:
        """Whether a round had this window since the last `settle`."""
        return any(r.window == window for r in self._rounds[self._since :])

    def known(self) -> Known:
        """What the rounds tell."""
        found: dict[int, list[float]] = defaultdict(list)
        for r in self._rounds:
            found[r.window].append(r.seconds)
        seconds = self._before | {w: typical(s) for w, s in found.items()}
        doubted = frozenset(w for w in found if not self.measured(w))
        return Known(seconds, self._wide(self._since), doubted)

    def reach(self) -> int | None:
        """The most steps that one of the last rounds accepted; none before the first that guessed anything."""
        return max((r.stride for r in self._wide()), default=None)

    def _wide(self, since: int = 0) -> list[Timed]:
        """The last rounds of windows beyond 1."""
        return [r for r in self._rounds[since:] if r.window > 1][-RECENT:]

    def lost(self, plain: float) -> float:
        """Seconds that plain steps would have saved so far, negative where they would have taken longer; the very first
        round, in which whatever happens once happens, is left out."""
        return sum(r.seconds - r.stride * plain for r in self._rounds[1:])
