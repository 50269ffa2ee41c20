"""What a config may say about its trainer: where a run ends, and what is due on the way."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from dreamprop.config.loader import InputError, nearest

OURS = {
    "accelerator": "--device",
    "devices": "--device",
    "callbacks": "the program",
    "logger": "the program",
    "inference_mode": "the program",
    "strategy": "the program",
}
"""Keys of the trainer that are not given in its block, and where they are given instead."""

EMPTY: dict[str, tuple[Any, ...]] = {
    "limit_train_batches": (None, 1.0),
    "max_epochs": (None, -1),
    "max_time": (None,),
    "overfit_batches": (None, 0, 0.0),
    "fast_dev_run": (None, False, 0),
}
"""Keys of the trainer that would end a run, or an epoch, at something else than a step; what leaves them out."""


def check(studio: Any) -> None:
    """See that a run is told to end at a step, and that what is due on the way is due at steps.

    Args:
        studio: threestudio's config.

    Raises:
        InputError: it is not.
    """
    trainer, checkpoint = dict(studio.trainer), dict(studio.checkpoint)
    lightning: Any = importlib.import_module("pytorch_lightning")
    known = list(inspect.signature(lightning.Trainer.__init__).parameters)[1:]
    for key, value in trainer.items():
        if key not in known:
            raise InputError(f"trainer.{key} is no setting of Lightning's trainer; {nearest(key, known)}")
        if key in OURS:
            raise InputError(f"trainer.{key} must be left out, got {value}; it is set by {OURS[key]}")
        if key in EMPTY and not any(value is none or _equal(value, none) for none in EMPTY[key]):
            raise InputError(f"trainer.{key} must be left out, got {value}; a run ends at trainer.max_steps")
    steps = trainer.get("max_steps")
    if type(steps) is not int or steps < 1:
        got = "none" if steps is None else steps
        raise InputError(f"trainer.max_steps must be an integer > 0, got {got}; say where the run ends")
    every = trainer.get("val_check_interval")
    if isinstance(every, str | Mapping):
        raise InputError(f"trainer.val_check_interval must be a number of steps, got {every}; give one")
    if checkpoint.get("train_time_interval") is not None:
        raise InputError(
            f"checkpoint.train_time_interval must be left out, got {checkpoint['train_time_interval']}; "
            "use checkpoint.every_n_train_steps"
        )


def _equal(value: Any, none: Any) -> bool:
    """Equal and of one type: a limit of 1 is one batch, one of 1.0 all of them."""
    return type(value) is type(none) and value == none
