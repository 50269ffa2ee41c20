"""Whether a drift is a pure function of (params, buffers, step): evaluate it again and compare.

What remembers earlier calls (a counter, an iterator, an average, a generator of its own) cannot be seen from outside,
but gives the same state another drift. Checks come at the 1st, 2nd, 3rd, 5th, 9th, 17th, ... step of a run, so a run
of n steps pays for about 2 log2(n) further drifts. Each evaluates again the state of the check before, which finds
memory that has woken in between, and then the state at hand, which finds what changes from call to call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from dreamprop.state import Drift, State

CPU_TOLERANCE = 1e-4
"""Relative difference of two evaluations on several CPU threads, some of whose sums come in any order."""
GPU_TOLERANCE = 1e-2
"""Relative difference of two evaluations on a GPU, whose sums come in any order."""
BESIDE_ON_GPU = 0.2
"""Relative difference of an evaluation alone and one beside others on a GPU, which may compute in half the digits."""
TINY = math.ulp(0.0)
FLOOR = 1e-2
"""Differences are relative to the norm of their tensor, or to this part of the norm of all where that is larger: a
gradient that is a sum of opposites has no digit in common with itself."""


class ImpureDrift(ValueError):
    """A drift that came out different when it was evaluated again; names the step and what differs.

    Args:
        step: of the drift.
        reached: the step at which it was evaluated again.
        names: of what differs.
        beside: what to do where it is the same each time it is evaluated alone, and another beside other steps.
    """

    def __init__(self, step: int, reached: int, names: Sequence[str], beside: str = "") -> None:
        self.step, self.reached, self.names = step, reached, tuple(names)
        seen = "at once" if reached == step else f"once step {reached} had been"
        super().__init__(
            f"drift at step {step} must be the same beside other steps as alone, differed in {some(names)}; {beside}"
            if beside
            else f"drift at step {step} must be the same whenever it is evaluated, differed {seen} in {some(names)}; "
            "compute what the loss remembers (a counter, an iterator, an average) from the step or keep it in a "
            "buffer, and draw from the generator given"
        )


class PurityCheck:
    """Evaluates drifts again now and then; has no effect on those of a pure function.

    Args:
        evaluate: a state to its drift.
    """

    def __init__(self, evaluate: Callable[[State], Drift]) -> None:
        self._evaluate = evaluate
        self.begin()

    def begin(self) -> None:
        """Forget the run before: checks come at the first steps of this one again."""
        self._first: int | None = None
        self._due: int | None = None
        self._last: tuple[State, Drift] | None = None

    def __call__(self, state: State, drift: Drift) -> None:
        """Check a drift if a check is due at its step.

        Args:
            state: whose drift was evaluated.
            drift: what it gave.

        Raises:
            ImpureDrift: evaluated again it gave another.
        """
        if self._due is None or state.step >= self._due:
            self._before(state)
            self._again(state, drift, state.step)
            self._keep(state, drift)

    def beside(self, state: State, drift: Drift, tolerance: float, remedy: str) -> None:
        """Check a drift that was evaluated beside others, if a check is due at its step, against one of its own.

        That one is evaluated again at the next check, like any other.

        Args:
            state: whose drift was evaluated.
            drift: what it gave.
            tolerance: relative difference that rounding may make.
            remedy: what to do where they differ by more.

        Raises:
            ImpureDrift: evaluated alone it gives another, or another each time.
        """
        if self._due is None or state.step >= self._due:
            self._before(state)
            alone = self._evaluate(state)
            if names := differences(alone, drift, tolerance):
                self._again(state, alone, state.step)  # it may differ from any other
                raise ImpureDrift(state.step, state.step, names, remedy)
            self._keep(state, alone)

    def _before(self, state: State) -> None:
        """Evaluate the state of the check before once more."""
        if self._last is not None:
            self._again(*self._last, state.step)

    def _keep(self, state: State, drift: Drift) -> None:
        """Keep a state and its drift for the next check."""
        self._first = state.step if self._first is None else self._first
        self._last = State(state.params, {}, state.buffers, state.step), drift
        self._due = self._first + max(2 * (state.step - self._first), 1)

    def _again(self, state: State, drift: Drift, reached: int) -> None:
        names = differences(drift, self._evaluate(state))
        if names:
            raise ImpureDrift(state.step, reached, names)


def beside_tolerance(tensors: Iterable[Tensor]) -> float:
    """What rounding may make of a drift that is evaluated beside others.

    A quarter of the digits of the coarsest type is to agree: a batch rounds otherwise in the last one, and a guidance
    scale of 100 or a sum of opposites takes two or three more. On a GPU there may be fewer digits than a type shows.

    Args:
        tensors: that a drift is computed from, one or more of them floating-point.
    """
    found = [(torch.finfo(t.dtype).eps ** 0.25, t.device.type) for t in tensors if t.is_floating_point()]
    return max(max(eps, BESIDE_ON_GPU if kind != "cpu" else 0.0) for eps, kind in found)


def differences(first: Drift, second: Drift, tolerance: float | None = None) -> list[str]:
    """What two evaluations of a drift do not agree on, the worst first.

    Compared are the gradients and the buffers as each left them. They must agree in every bit on one CPU thread and
    where deterministic algorithms are in force; to a tolerance on several threads and on a GPU.

    Args:
        first: one evaluation.
        second: another one of the same state.
        tolerance: relative difference that is none; ``None``: as above.

    Returns:
        Names of parameters and of buffers.
    """
    found: list[tuple[float, str]] = []
    for ours, theirs in zip(compared(first), compared(second), strict=True):
        both = {n for n in ours.keys() & theirs.keys() if _form(ours[n]) == _form(theirs[n])}
        found += [(math.inf, n) for n in sorted((ours.keys() | theirs.keys()) - both)]
        norms = {n: _norms(ours[n], theirs[n]) for n in ours if n in both}
        total = math.hypot(*(norm for _, norm in norms.values()))
        for name, (off, norm) in norms.items():
            ratio = off / (max(norm, FLOOR * total) or TINY)
            if not ratio <= (_tolerance(ours[name].device) if tolerance is None else tolerance):
                found.append((math.inf if math.isnan(ratio) else ratio, name))
    return [name for _, name in sorted(found, key=lambda pair: -pair[0])]


def compared(drift: Drift) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What two evaluations of one state must agree on: the gradients, and the buffers as they were left."""
    return drift.grads, {name: write.new for name, write in drift.writes.items()}


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _norms(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Norms of (a - b) and of a; a NaN or Inf is no different from itself, and without size."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    same = (a == b) | ((a != a) & (b != b))
    a, b = a.double(), b.double()
    return float((a - b).masked_fill(same, 0).norm()), float(a.nan_to_num(0, 0, 0).norm())


def _tolerance(device: torch.device) -> float:
    if device.type != "cpu":
        return GPU_TOLERANCE
    ordered = torch.get_num_threads() == 1 or torch.are_deterministic_algorithms_enabled()
    return 0.0 if ordered else CPU_TOLERANCE


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names in words, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
