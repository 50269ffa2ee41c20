"""Checks of an optimiser's options, as a config gives them."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from dreamprop.config.schedule_checks import check_numbers, check_schedule, given, refuse
from dreamprop.optim import OPTIMIZERS

BETAS = {"Adam": (0.9, 0.99), "AdamW": (0.9, 0.99), "Adan": (0.98, 0.92, 0.99)}
"""Usual decays of the optimisers that have some."""
SWITCHES = ("amsgrad", "nesterov", "maximize")
HIGHEST = {"lr": 1e6, "eps": 1.0, "weight_decay": 1e6, "momentum": 1.0, "dampening": 1.0}
"""Options that are schedules from 0 on, and how far they go."""


def check_options(key: str, name: str, options: Any, group: bool = False) -> None:
    """The arguments of an optimiser, or what a group of parameters overrides of them.

    Args:
        key: where they stand.
        name: of the optimiser.
        options: by name.
        group: whether they are of one group, which has no switches of its own.
    """
    if not isinstance(options, Mapping):
        refuse(key, "be a block of options", options, "write {lr: 0.01}")
    known = ["lr", *list(signature(OPTIMIZERS[name]).parameters)[1:]]
    known = [option for option in known if not (group and option in SWITCHES)]
    for option, value in given(options).items():
        if option not in known:
            rule = f"hold options of {name} ({', '.join(known)})"
            refuse(key, rule, option, f"drop it or write {key}.{option}=null")
        if option == "betas":
            check_numbers(f"{key}.betas", value, len(BETAS[name]), 1, BETAS[name], below=True)
        elif option in SWITCHES:
            if not isinstance(value, bool):
                refuse(f"{key}.{option}", "be true or false", value, "use false")
        else:
            check_schedule(f"{key}.{option}", value, 0, HIGHEST[option])
    if options.get("nesterov") and (not options.get("momentum") or options.get("dampening")):
        rule = "come with momentum > 0 and dampening 0"
        refuse(f"{key}.nesterov", rule, dict(options), f"set {key}.nesterov=false")
