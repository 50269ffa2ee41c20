"""Evaluate the drifts of a window in one batch on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import overload

from dreamprop.process import Process
from dreamprop.state import Drift, State


@overload
def batched(process: Process, states: Sequence[State], *, sub_batch: int | None = None) -> list[Drift]: ...


@overload
def batched(*, sub_batch: int | None = None) -> Callable[[Process, Sequence[State]], list[Drift]]: ...


def batched(
    process: Process | None = None,
    states: Sequence[State] | None = None,
    *,
    sub_batch: int | None = None,
) -> list[Drift] | Callable[[Process, Sequence[State]], list[Drift]]:
    """The drifts of all states by ``process.drift_window``; agrees with one by one to rounding.

    A state alone is evaluated by ``process.drift``, so a window of one is the sequential run.

    Args:
        process: a chain that has ``drift_window``.
        states: to evaluate.
        sub_batch: most states in one batch, where memory is short; ``None``: all.

    Returns:
        The drifts; or, without a process, an evaluator with this ``sub_batch``: ``batched(sub_batch=4)``.
    """
    if sub_batch is not None and (not isinstance(sub_batch, Integral) or sub_batch < 1):
        raise ValueError(
            f"sub_batch must be >= 1, got {sub_batch!r}; use null to evaluate all states at once"
        )
    if process is None or states is None:
        return partial(batched, sub_batch=sub_batch)
    if not hasattr(process, "drift_window"):
        name = type(process).__name__
        raise ValueError(f"evaluator batched must have drift_window, got {name} without it; use serial")
    drifts: list[Drift] = []
    size = sub_batch or max(len(states), 1)
    for first in range(0, len(states), size):
        batch = list(states[first : first + size])
        drifts += process.drift_window(batch) if len(batch) > 1 else [process.drift(batch[0])]
    return drifts
