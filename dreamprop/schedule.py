"""Numbers as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real

Schedule = float | Sequence[float] | Callable[[int], float]


def schedule(value: Schedule) -> Callable[[int], float]:
    """A number as a function of the step.

    Args:
        value: a constant; a function of the step; or ``[start_step, start_value, end_value, end_step]`` as in
            threestudio, linear in between and constant outside; without ``start_step`` it starts at 0.

    Returns:
        A function from the step to the value.

    Raises:
        ValueError: the value is none of these.
    """
    if callable(value):
        return value
    if isinstance(value, Real):
        constant = float(value)
        return lambda step: constant
    rule = "a schedule must be a number, a function or [start_step, start_value, end_value, end_step]"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{rule}, got {value!r}; write a number to hold it constant")
    numbers = list(value)
    if len(numbers) not in (3, 4) or not all(isinstance(n, Real) and math.isfinite(n) for n in numbers):
        raise ValueError(f"{rule}, got {numbers!r}; write a number to hold it constant")
    start_step, start, end, end_step = (float(n) for n in ([0, *numbers] if len(numbers) == 3 else numbers))
    if end_step <= start_step:
        raise ValueError(f"end_step must be > start_step, got {numbers!r}; write a number for a constant")
    return lambda step: (
        start + (end - start) * max(min((step - start_step) / (end_step - start_step), 1.0), 0.0)
    )
