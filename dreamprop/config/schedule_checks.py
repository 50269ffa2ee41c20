"""Checks of settings where they are made: one line with key, rule, value and remedy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from dreamprop.config.validate import FAR, brief, number
from dreamprop.errors import InputError
from dreamprop.schedule import schedule


def staged(value: Any, milestones: Sequence[int], step: int) -> int:
    """The value that holds at a step: `values[i]` with i the number of milestones that are <= step."""
    return int(value[bisect_right(list(milestones), step)]) if isinstance(value, Sequence) else int(value)


def refuse(key: str, rule: str, got: Any, remedy: str) -> None:
    """Say in one line what is wrong and what to write instead."""
    raise InputError(f"{key} must {rule}, got {brief(got)}; {remedy}")


def check_staged(key: str, value: Any, milestones: Sequence[int], low: int, high: int) -> None:
    """A whole number, or one for every stage."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        number(key, value, low, high, whole=True, remedy=f"use {max(32, low)}, or a list of such")
        return
    for place, one in enumerate(value):
        number(f"{key}[{place}]", one, low, high, whole=True, remedy=f"use {max(32, low)}")
    if len(value) != len(milestones) + 1:
        rule = f"have one value more than resolution_milestones has steps ({len(milestones)})"
        refuse(key, rule, value, f"give {len(milestones) + 1} values, or one number")


def check_milestones(key: str, milestones: Sequence[int]) -> None:
    """Rising steps."""
    steps = list(milestones)
    if any(not 1 <= s <= 1e9 for s in steps) or steps != sorted(set(steps)):
        refuse(key, "be rising steps from 1 to 1e+09", steps, "write [100, 200]")


def check_range(key: str, value: Sequence[float], low: float, high: float) -> None:
    """Two numbers, the lower one first."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        refuse(
            key, f"be [low, high] within [{low:g}, {high:g}]", list(value), "swap or narrow the two numbers"
        )


def check_numbers(
    key: str, value: Any, count: int, high: float, usual: Sequence[float], below: bool = False
) -> None:
    """So many numbers from 0 to a bound, or to below it."""
    sound = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
    if not sound or not all(_is_number(v) and 0 <= v <= high and not (below and v == high) for v in value):
        rule = f"be {count} numbers from 0 to {'below ' if below else ''}{high:g}"
        refuse(key, rule, value, f"write {list(usual)}")


def check_schedule(key: str, value: Any, low: float, high: float = FAR) -> None:
    """A number in bounds, or a schedule whose steps are steps and whose ends are in bounds."""
    if isinstance(value, int | float):
        number(key, value, low, high, remedy=f"use a number from {low:g} on")
        return
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) not in (3, 4) or not all(_is_number(one) for one in numbers):
        rule = "be a number or [start_step, start_value, end_value, end_step]"
        refuse(key, rule, value, "write a number to hold it constant")
    start, end = ([0, *numbers] if len(numbers) == 3 else numbers)[::3]
    if not 0 <= start < end <= FAR:
        refuse(key, "have 0 <= start_step < end_step", numbers, "write a number for a constant")
    for one in numbers[-3:-1]:
        number(key, one, low, high, remedy=f"use numbers from {low:g} on")


def check_order(low_key: str, low: Any, high_key: str, high: Any) -> None:
    """Two schedules of which the first is nowhere above the second; both are straight between their corners."""
    corners = {float(v[i]) for v in (low, high) if isinstance(v, Sequence) for i in ((-1, 0)[: len(v) - 2])}
    for step in sorted({0.0, *corners}):
        lower, upper = (schedule(value)(int(step)) for value in (low, high))
        if lower > upper:
            raise InputError(
                f"{low_key} must be <= {high_key}, got {lower:g} > {upper:g} at step {int(step)}; "
                "lower the first or raise the second"
            )


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that are null, which is how the command line takes one back that a file gives."""
    return {option: value for option, value in options.items() if value is not None}


def _is_number(value: Any) -> bool:
    """Whether it is one within what settings are."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -FAR <= value <= FAR


def check_name(key: str, value: str, known: Sequence[str]) -> None:
    """One of the known names."""
    if value not in known:
        refuse(key, f"be one of {', '.join(known)}", value, f"use {known[0]}")
