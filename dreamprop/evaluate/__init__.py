"""Evaluators map (process, states) to the drifts of a window: one by one, or in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dreamprop.evaluate.batched import batched
from dreamprop.evaluate.serial import serial
from dreamprop.process import Process
from dreamprop.state import Drift, State

Evaluator = Callable[[Process, Sequence[State]], list[Drift]]

EVALUATORS: dict[str, Evaluator] = {"serial": serial, "batched": batched}

__all__ = ["EVALUATORS", "Evaluator", "batched", "serial"]
