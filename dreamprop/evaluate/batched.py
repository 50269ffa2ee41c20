"""Evaluate the drifts of a window in batches on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from dreamprop.evaluate.sub_batch import attempt_all, check_sub_batch, cut, halved
from dreamprop.process import Process
from dreamprop.state import Drift, State


class Batched:
    """The drifts of all states by ``process.drift_window``; agrees with one by one to rounding.

    Where a batch does not fit in the memory of the device its size is halved, for good, and everything is evaluated
    again; a warning says so.

    Args:
        sub_batch: most states in one batch; ``None``: all.
    """

    def __init__(self, sub_batch: int | None = None) -> None:
        check_sub_batch(sub_batch)
        self.sub_batch = sub_batch

    def __call__(self, process: Process, states: Sequence[State]) -> list[Drift]:
        """Evaluate; a state alone in a batch by ``process.drift``, so a window of one is the sequential run."""
        if not hasattr(process, "drift_window"):
            name = type(process).__name__
            raise ValueError(f"evaluator batched must have drift_window, got {name} without it; use serial")
        while True:
            size = self.sub_batch or max(len(states), 1)
            drifts = attempt_all(process, [states[a:b] for a, b in cut(len(states), size)])
            if drifts is not None:
                return drifts
            self.sub_batch = halved(min(size, len(states)))


@overload
def batched(process: Process, states: Sequence[State], *, sub_batch: int | None = None) -> list[Drift]: ...


@overload
def batched(*, sub_batch: int | None = None) -> Batched: ...


def batched(
    process: Process | None = None, states: Sequence[State] | None = None, *, sub_batch: int | None = None
) -> list[Drift] | Batched:
    """Evaluate in one batch: ``evaluator=batched``, or ``evaluator=batched(sub_batch=4)`` where memory is short.

    Args:
        process: a chain that has ``drift_window``.
        states: to evaluate.
        sub_batch: most states in one batch; ``None``: all.

    Returns:
        The drifts; or, without a process, an evaluator.

    Raises:
        ValueError: ``sub_batch`` is below 1, or the process has no ``drift_window``.
        MemoryError: not even one state fits.
    """
    evaluator = Batched(sub_batch)
    return evaluator if process is None or states is None else evaluator(process, states)
