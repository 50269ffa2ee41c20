"""Evaluators: how the drifts of a window are computed.

An evaluator maps ``(process, states)`` to the list of drifts, one for each state. One that has ``start(process, first,
exact)`` is a value instead, and what that returns is the evaluator of one run.
"""

from collections.abc import Callable, Sequence

from dreamprop.evaluate.batched import batched
from dreamprop.evaluate.distributed import Distributed, distributed
from dreamprop.evaluate.serial import serial
from dreamprop.process import Process
from dreamprop.state import Drift, State

Evaluator = Callable[[Process, Sequence[State]], list[Drift]] | Distributed

EVALUATORS: dict[str, Callable[[], Evaluator]] = {
    "serial": lambda: serial,
    "batched": lambda: batched(),
    "distributed": distributed,
}

__all__ = ["EVALUATORS", "Evaluator", "batched", "distributed", "serial"]
