"""A config whose steps and milestones are divided by the same number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

COUNTS = (
    "ambient_only_steps", "start_step", "update_steps", "warmup_steps", "progressive_until", "milestone_steps",
)  # fmt: skip
"""Keys that hold a number of steps, wherever they stand."""
MILESTONES = ("resolution_milestones",)
"""Keys that hold a list of them."""
SCHEDULES = (
    "system.loss.",
    "system.guidance.min_step_percent",
    "system.guidance.max_step_percent",
    "system.guidance.grad_clip",
    "system.guidance.guidance_scale",
)
"""Where a list is a value by step: `[begin, from, to, end]`, `[from, to, end]`, or more pairs of a value and an end."""


def overrides(tree: Mapping[str, Any], steps: int) -> list[str]:
    """Dot-list overrides that make a config take so many steps, every milestone at its share of them.

    Args:
        tree: the config, as YAML has it.
        steps: to take; what is divided is rounded, and stays in its order.
    """
    most = tree["trainer"]["max_steps"]
    factor = most / steps
    made = [f"trainer.max_steps={steps}"]
    for key, value in _leaves(tree):
        last = key.rpartition(".")[2]
        if last in COUNTS and isinstance(value, int) and value <= most:  # what is never reached stays so
            made.append(f"{key}={max(1, round(value / factor)) if value else 0}")
        elif last in MILESTONES:
            made.append(f"{key}={_list([round(v / factor) for v in value])}")
        elif isinstance(value, list) and len(value) >= 3 and key.startswith(SCHEDULES):
            made.append(f"{key}={_list(_schedule(value, factor))}")
    return made


def _schedule(value: list[Any], factor: float) -> list[Any]:
    """A value by step, sooner; a step counts from the one before it, so that none falls together with it."""
    made, last = list(value), -1
    first = 2 if len(value) == 3 else 3
    for i in ([] if len(value) == 3 else [0]) + list(range(first, len(value), 2)):
        last = made[i] = max(last + 1, round(value[i] / factor))
    return made


def _list(values: list[Any]) -> str:
    return "[" + ",".join(str(v) for v in values) + "]"


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree that is no table itself, by its dotted key."""
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value
