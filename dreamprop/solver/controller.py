"""How many steps of a round are accepted: errors from norms, and the bound they are held against.

A controller is a frozen value; what it learns from one round to the next is a state of its own that travels through
``accept``, as in the step-size controllers of ODE solvers. A slot is one step of the window; slot 0 is the accepted
state, whose error is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import ClassVar, Protocol, TypeVar

from dreamprop.process import Group
from dreamprop.solver.norms import Norms

S = TypeVar("S")
TINY = math.ulp(0.0)
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "median": median,
    "mean": fmean,
    "middle": lambda errors: errors[len(errors) // 2],  # what the published code takes for the median
}


class Controller(Protocol[S]):
    """An error of every slot, and a bound on it that may move from round to round."""

    @property
    def exact(self) -> bool:
        """Whether guesses must match bit for bit."""
        ...

    @property
    def tail(self) -> bool:
        """Whether the state behind the window is guessed and compared too."""
        ...

    def init(self, threshold: float | None) -> S:
        """What the controller begins with, given the threshold that an earlier part of the run has come to."""
        ...

    def error(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        """Error of one slot."""
        ...

    def forgets(self, norms: Norms, groups: Mapping[str, Group]) -> bool:
        """Whether a guess was so far off that a fresh one is better than what was rolled out with its drift."""
        ...

    def bound(self, state: S) -> float:
        """Largest error that is accepted."""
        ...

    def learn(self, state: S, errors: Sequence[float]) -> S:
        """The state after a round with these errors: of the slots behind the accepted state, and the tail's."""
        ...


def accept(
    controller: Controller[S], norms: Sequence[Norms], groups: Sequence[Mapping[str, Group]], state: S
) -> tuple[int, list[float], S]:
    """How many steps of a round are kept. Pure: the same round is judged alike whoever asks.

    Args:
        controller: the rule.
        norms: [F] of the states that were rolled out with the F >= 1 first drifts, those that are finite.
        groups: [W] error groups of the updates of the window.
        state: of the controller.

    Returns:
        stride: steps to accept, at least 1: the first state that fails is kept too, since the update into it used
            the drift of the slot before, evaluated at a state that passed.
        errors: [W] of the slots; infinite where no finite drift reaches.
        state: of the controller after this round.
    """
    behind = [controller.error(n, g) for n, g in zip(norms, groups, strict=False) if n.error is not None]
    reached = [0.0, *behind][: len(norms)]
    errors = reached + [math.inf] * (len(groups) - len(reached))
    bound = controller.bound(state)
    stride = next((slot for slot, error in enumerate(errors) if not error <= bound), len(errors))
    return stride, errors, controller.learn(state, behind)


def remembered(
    controller: Controller[S], norms: Sequence[Norms], groups: Sequence[Mapping[str, Group]], stride: int
) -> int:
    """The slot behind the last one whose rolled-out state is worth keeping: the first guess behind the accepted steps
    that was far off spoils what was rolled out with its drift.

    Args:
        controller: the rule.
        norms, groups: as for `accept`.
        stride: how many steps were accepted.
    """
    spoilt = (
        slot for slot in range(stride, len(norms)) if controller.forgets(norms[slot - 1], groups[slot - 1])
    )
    return next(spoilt, len(norms))


@dataclass(frozen=True)
class Step:
    """Root mean square by group, in units of the group's nominal step; the worst group counts.

    ``max_g  sqrt(mean_{x in g} (rolled - guess)^2) / step_g``

    Buffers count by how far they differ relative to their size, each in its own unit; those that a group names
    count there. With a tolerance of 0 the guess must equal the rolled-out state bit for bit, buffers included.
    """

    tolerance: float
    tail: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(
                f"tolerance must be >= 0, got {self.tolerance}; use 0 to accept only exact guesses"
            )

    @property
    def exact(self) -> bool:
        """Whether the tolerance is 0."""
        return self.tolerance == 0

    def init(self, threshold: float | None) -> None:
        """Nothing: the tolerance stays."""

    def error(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        """The error of the worst group or buffer."""
        buffers = [TINY if norms.differs else 0.0, *map(_number, norms.buffers.values())]
        return max(*buffers, self._of_groups(norms, groups))

    def forgets(self, norms: Norms, groups: Mapping[str, Group]) -> bool:
        """Whether its parameters were off by twice the tolerance, or two nominal steps, as fresh guesses soon are;
        never where guesses must be exact, since rolled-out states become exact and fresh guesses do not.

        Buffers do not count: a fresh guess knows less of them than what was rolled out.
        """
        return not self.exact and self._of_groups(norms, groups) > 2 * max(self.tolerance, 1.0)

    def _of_groups(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        """The error of the worst group."""
        worst = 0.0
        for group in groups.values():
            square = sum(norms.error[name] for name in group.names) if norms.error else 0.0
            if square == 0:
                continue
            if group.step is None:
                unit = math.sqrt(sum(norms.moved[name] for name in group.names))
            else:
                unit = group.step * math.sqrt(sum(norms.count[name] for name in group.names))
            worst = max(worst, _number(math.sqrt(square) / unit if unit else math.inf))
        return worst

    def bound(self, state: None) -> float:
        """The tolerance, which is the same in every round."""
        return self.tolerance

    def learn(self, state: None, errors: Sequence[float]) -> None:
        """Nothing: the tolerance stays."""


@dataclass(frozen=True)
class Paper:
    """Mean square over all parameters, times 1e6, against a moving threshold, arXiv:2311.17082, alg. 1.

    ``threshold <- decay threshold + (1 - decay) aggregate(errors)`` after every round.

    The paper knows no buffers; here a guess with one that is off by more than its unit is not good enough.
    """

    threshold: float = 30.0
    """Where the threshold starts."""
    decay: float = 0.9
    """How much of it each round keeps."""
    aggregate: str = "median"
    """It moves to the median, the mean or the middle of the errors."""
    tail: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be >= 0, got {self.threshold}; 5 to 50 is usual")
        if not 0 <= self.decay <= 1:
            raise ValueError(
                f"decay must lie in [0, 1], got {self.decay}; use 1 to keep the threshold where it is"
            )
        if self.aggregate not in AGGREGATES:
            raise ValueError(
                f"aggregate must be one of {', '.join(AGGREGATES)}, got {self.aggregate!r}; use median"
            )

    def init(self, threshold: float | None) -> float:
        """The threshold that an earlier part of the run has come to, or the first one."""
        return self.threshold if threshold is None else threshold

    def error(self, norms: Norms, groups: Mapping[str, Group]) -> float:
        """The mean square over all parameters, times 1e6."""
        count = sum(norms.count.values())
        error = 1e6 * sum(norms.error.values()) / count if norms.error and count else 0.0
        return math.inf if any(_number(off) > 1 for off in norms.buffers.values()) else _number(error)

    def forgets(self, norms: Norms, groups: Mapping[str, Group]) -> bool:
        """Nothing: the paper keeps what was rolled out."""
        return False

    def bound(self, state: float) -> float:
        """The threshold as the last round left it."""
        return state

    def learn(self, state: float, errors: Sequence[float]) -> float:
        """The moved threshold; an error that is not finite would lift it for good, and is left out."""
        finite = [error for error in errors if math.isfinite(error)]
        if not finite:
            return state
        return self.decay * state + (1 - self.decay) * AGGREGATES[self.aggregate](finite)


ERROR_RULES = ("step", "paper")
"""Names of the controllers."""


def make_controller(
    error_rule: str, tolerance: float, threshold: float | None, decay: float, aggregate: str
) -> Step | Paper:
    """The controller of a name.

    Raises:
        ValueError: an argument is out of range, or the tolerance of proofs comes with the paper's rule.
    """
    if error_rule not in ERROR_RULES:
        raise ValueError(
            f"error_rule must be one of {', '.join(ERROR_RULES)}, got {error_rule!r}; use {ERROR_RULES[0]}"
        )
    step = Step(tolerance)
    if error_rule == "step":
        return step
    if step.exact:
        raise ValueError(
            f"tolerance must be > 0 with error_rule {error_rule}, got 0; use error_rule step for proofs"
        )
    return Paper(Paper.threshold if threshold is None else threshold, decay, aggregate)


def _number(error: float) -> float:
    """An error as a number that compares: NaN is never small."""
    return math.inf if math.isnan(error) else error
