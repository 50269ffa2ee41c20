"""Rules that turn the norms of a round into errors and say how large an error may be.

A slot is one step of the window; slot 0 is the accepted state, whose error is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean, median
from typing import Protocol

from dreamprop.process import Group
from dreamprop.solver.norms import Norms

TINY = math.ulp(0.0)
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "median": median,
    "mean": fmean,
    "middle": lambda errors: errors[len(errors) // 2],  # what the published code takes for the median
}


class Rule(Protocol):
    """Turns norms into errors and says how large an error may be."""

    tail: bool
    """Whether the rule looks at the slot behind the window too."""
    exact: bool
    """Whether guesses must match bit for bit."""
    limit: float
    """Largest error that is accepted."""
    moves: bool
    """Whether the limit moves from round to round."""

    def __call__(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        """Error of one slot."""
        ...

    def settle(self, errors: list[float]) -> None:
        """Learn from the errors of a round: those of the slots behind the accepted state, and the tail's."""
        ...


class Step:
    """Root mean square by group, in units of the group's nominal step; the worst group counts.

    ``max_g  sqrt(mean_{x in g} (rolled - guess)^2) / step_g``

    Buffers count by how far they differ relative to their size, each in its own unit; those that a group names
    count there. With a tolerance of 0 the guess must equal the rolled-out state bit for bit, buffers included.
    """

    tail, moves = False, False

    def __init__(self, tolerance: float) -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0, got {tolerance}; use 0 to accept only exact guesses")
        self.limit, self.exact = tolerance, tolerance == 0

    def __call__(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        worst = max([TINY if norms.differs else 0.0, *map(_number, norms.buffers.values())])
        for group in groups.values():
            square = sum(norms.error[name] for name in group.names) if norms.error else 0.0
            if square == 0:
                continue
            if group.step is None:
                unit = math.sqrt(sum(norms.moved[name] for name in group.names))
                error = math.sqrt(square) / unit if unit else math.inf
            else:
                unit = group.step * math.sqrt(sum(norms.count[name] for name in group.names))
                error = math.sqrt(square) / unit if unit else math.inf
            worst = max(worst, _number(error))
        return worst

    def settle(self, errors: list[float]) -> None:
        """Nothing to learn: the tolerance stays."""


class Paper:
    """Mean square over all parameters, times 1e6, against a moving threshold, arXiv:2311.17082, alg. 1.

    ``threshold <- decay threshold + (1 - decay) aggregate(errors)`` after every round.

    The paper knows no buffers; here a guess with one that is off by more than its unit is not good enough.
    """

    tail, exact, moves = True, False, True

    def __init__(self, threshold: float = 30.0, decay: float = 0.9, aggregate: str = "median") -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold must be >= 0, got {threshold}; 5 to 50 is usual")
        if not 0 <= decay <= 1:
            raise ValueError(
                f"decay must lie in [0, 1], got {decay}; use 1 to keep the threshold where it is"
            )
        if aggregate not in AGGREGATES:
            raise ValueError(
                f"aggregate must be one of {', '.join(AGGREGATES)}, got {aggregate!r}; use median"
            )
        self.limit, self.decay, self.aggregate = float(threshold), float(decay), AGGREGATES[aggregate]

    def __call__(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        count = sum(norms.count.values())
        error = 1e6 * sum(norms.error.values()) / count if norms.error and count else 0.0
        return math.inf if any(_number(off) > 1 for off in norms.buffers.values()) else _number(error)

    def settle(self, errors: list[float]) -> None:
        """Move the threshold; an error that is not finite would lift it for good, and is left out."""
        errors = [error for error in errors if math.isfinite(error)]
        if errors:
            self.limit = self.decay * self.limit + (1 - self.decay) * self.aggregate(errors)


ERROR_RULES: dict[str, Callable[..., Rule]] = {"step": Step, "paper": Paper}


def _number(error: float) -> float:
    """NaN is never small."""
    return math.inf if math.isnan(error) else error
