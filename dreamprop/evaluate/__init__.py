"""Evaluators: how the drifts of a window are computed.

An evaluator is a value: a function of (process, states) to the list of drifts, or an object whose ``start(process,
first, exact)`` gives the ``Evaluation`` of one run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dreamprop.distributed.process_group import is_single_process
from dreamprop.evaluate.batched import Batched, batched
from dreamprop.evaluate.distributed import Distributed, distributed
from dreamprop.evaluate.evaluation import Evaluate, Evaluation
from dreamprop.evaluate.serial import serial
from dreamprop.process import Process
from dreamprop.state import State


class Startable(Protocol):
    """An evaluator that looks at the chain of a run before the first window."""

    def start(self, process: Process, first: State, exact: bool) -> Evaluation:
        """The evaluation of a run.

        Args:
            process: the chain.
            first: the state that the run begins from.
            exact: whether drifts must be bit for bit those of the sequential run.
        """
        ...


Evaluator = Evaluate | Startable
EVALUATORS: dict[str, Callable[[], Evaluator]] = {
    "batched": Batched,
    "serial": lambda: serial,
    "distributed": distributed,
}


def default_evaluator(process: Process, exact: bool) -> str:
    """The name of the evaluator of a run that asks for none: ``distributed`` where several processes were started; else
    ``batched`` where the process has ``drift_window``; else, and where the rounding of a batch would break the promise
    of an exact run, ``serial``."""
    if not is_single_process():
        return "distributed"
    return "batched" if process.fused and not exact else "serial"


def start(evaluator: Evaluator | str | None, process: Process, first: State, exact: bool) -> Evaluation:
    """The evaluation of a run.

    Args:
        evaluator: a value, a name of ``EVALUATORS``, or ``None`` for the default.
        process: the chain.
        first: the state that the run begins from.
        exact: whether drifts must be bit for bit those of the sequential run.

    Raises:
        ValueError: there is no such evaluator, or it does not suit the process.
    """
    if evaluator is None:
        evaluator = default_evaluator(process, exact)
    if isinstance(evaluator, str):
        if evaluator not in EVALUATORS:
            raise ValueError(
                f"evaluator must be one of {', '.join(EVALUATORS)}, got {evaluator!r}; use serial"
            )
        evaluator = EVALUATORS[evaluator]()
    if evaluator is batched:
        evaluator = Batched()
    if hasattr(evaluator, "start"):
        begun: Evaluation = evaluator.start(process, first, exact)
        return begun
    if not callable(evaluator):
        raise ValueError(f"evaluator must map (process, states) to drifts, got {evaluator!r}; use serial")
    return Evaluation(process, evaluator)


__all__ = [
    "EVALUATORS",
    "Batched",
    "Distributed",
    "Evaluation",
    "Evaluator",
    "batched",
    "default_evaluator",
    "distributed",
    "serial",
    "start",
]
