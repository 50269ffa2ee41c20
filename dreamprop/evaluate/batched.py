"""Evaluate the drifts of a window in batches on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from dreamprop.evaluate.evaluation import Evaluation
from dreamprop.evaluate.sub_batch import attempt_all, check_sub_batch, cut, halved
from dreamprop.process import Chain, Process, as_process
from dreamprop.state import Drift, State


@dataclass(frozen=True)
class Batched:
    """The drifts of all states by ``process.drift_window``; agrees with one by one to rounding."""

    sub_batch: int | None = None
    """Most states in one batch; ``None``: all."""

    def __post_init__(self) -> None:
        check_sub_batch(self.sub_batch)

    def start(self, process: Process, first: State, exact: bool) -> Evaluation:
        """The evaluation of a run, which learns how large a batch may be.

        Raises:
            ValueError: the process has no ``drift_window``.
        """
        if not process.fused:
            raise ValueError(
                "evaluator batched must have a process with drift_window, got one without; use serial"
            )
        return Evaluation(process, _Batches(self.sub_batch))

    def __call__(self, process: Chain, states: Sequence[State]) -> list[Drift]:
        """Evaluate once; a state alone in a batch by ``process.drift``."""
        return self.start(as_process(process), states[0], False)(states)


class _Batches:
    """Evaluates in batches. Where one does not fit in the memory of the device their size is halved, for good, and
    everything is evaluated again; a warning says so."""

    def __init__(self, sub_batch: int | None) -> None:
        self.sub_batch = sub_batch

    def __call__(self, process: Process, states: Sequence[State]) -> list[Drift]:
        while True:
            size = self.sub_batch or max(len(states), 1)
            drifts = attempt_all(process, [states[a:b] for a, b in cut(len(states), size)])
            if drifts is not None:
                return drifts
            self.sub_batch = halved(min(size, len(states)))


@overload
def batched(process: Chain, states: Sequence[State], *, sub_batch: int | None = None) -> list[Drift]: ...


@overload
def batched(*, sub_batch: int | None = None) -> Batched: ...


def batched(
    process: Chain | None = None, states: Sequence[State] | None = None, *, sub_batch: int | None = None
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
