"""Checks of settings where they are made: one line with key, rule, value and remedy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from dreamprop.optim import schedule


def staged(value: Any, milestones: Sequence[int], step: int) -> int:
    """The value that holds at a step: `values[i]` with i the number of milestones that are <= step."""
    return int(value[bisect_right(list(milestones), step)]) if isinstance(value, Sequence) else int(value)


def refuse(key: str, rule: str, got: Any, remedy: str) -> None:
    """Say in one line what is wrong and what to write instead."""
    raise ValueError(f"{key} must {rule}, got {got!r}; {remedy}")


def check_staged(key: str, value: Any, milestones: Sequence[int], lowest: int) -> None:
    """A whole number, or one for every stage."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or min(values, default=0) < lowest:
        refuse(key, f"be a whole number >= {lowest} or a list of them", value, f"use {max(32, lowest)}")
    if isinstance(value, Sequence) and len(values) != len(milestones) + 1:
        rule = f"have one value more than resolution_milestones has steps ({len(milestones)})"
        refuse(key, rule, value, f"give {len(milestones) + 1} values, or one number")


def check_milestones(key: str, milestones: Sequence[int]) -> None:
    """Rising steps."""
    steps = list(milestones)
    if any(s < 1 for s in steps) or steps != sorted(set(steps)):
        refuse(key, "be rising steps >= 1", steps, "write [100, 200]")


def check_range(key: str, value: Sequence[float], low: float, high: float) -> None:
    """Two numbers, the lower one first."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        refuse(
            key, f"be [low, high] within [{low:g}, {high:g}]", list(value), "swap or narrow the two numbers"
        )


def check_schedule(key: str, value: Any, low: float, high: float = float("inf")) -> None:
    """A number or a schedule whose ends are in bounds."""
    try:
        schedule(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    ends = value[-3:-1] if isinstance(value, Sequence) else [value]
    if not all(low <= v <= high for v in ends):
        refuse(key, f"stay within [{low:g}, {high:g}]", value, f"use a number from {low:g} on")


def check_name(key: str, value: str, known: Sequence[str]) -> None:
    """One of the known names."""
    if value not in known:
        refuse(key, f"be one of {', '.join(known)}", value, f"use {known[0]}")
