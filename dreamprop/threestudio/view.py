"""What a system sees as its trainer while a step is evaluated: the real one, at the step that is meant."""

from __future__ import annotations

from typing import Any


class View:
    """A trainer at a step; whatever it does not know itself it asks the real one.

    Args:
        loader: the training data loader.
        datamodule: where it comes from.
        trainer: the real one, if there is one.
    """

    training = True

    def __init__(self, loader: Any, datamodule: Any = None, trainer: Any = None) -> None:
        self.train_dataloader, self.datamodule, self._trainer = loader, datamodule, trainer
        self.global_step = 0
        """Optimiser steps taken; what ``system.true_global_step`` gives."""
        self.current_epoch = 0
        """threestudio's data never ends, so neither does its first epoch."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__dict__.get("_trainer") is None:
            raise AttributeError(f"trainer has no {name!r} while a step is evaluated")
        return getattr(self._trainer, name)

    def copy(self) -> View:
        """Another view of the same trainer."""
        return View(self.train_dataloader, self.datamodule, self._trainer)
