"""A stand-in for the trainer that a system sees while a step is evaluated: the real one, at the step that is meant.

Steps are evaluated ahead of their turn and more than once, so the real trainer stands somewhere else. What moves
with the steps is shown as it is at this one, and can be read only: whatever a step would write to its trainer, to
the optimiser or to a group of its parameters is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import torch

from dreamprop.adapters.lr_schedule import copied
from dreamprop.adapters.torch_optimizer import FunctionalOptimizer
from dreamprop.threestudio.errors import NotAChain

UNKNOWN = (
    "fit_loop", "callback_metrics", "logged_metrics", "progress_bar_metrics", "is_last_batch", "scaler",
    "save_checkpoint", "fit", "validate", "test", "predict",
)  # fmt: skip
"""Attributes of a trainer that it cannot tell, or do, in the middle of a window."""


class TrainerProxy:
    """A trainer at a step; whatever does not move with the steps it asks the real one.

    Args:
        loader: the training data loader.
        datamodule: where it comes from.
        trainer: the real one, if there is one.
        stepper: knows the optimiser's options and the scheduler at every step.
    """

    train_dataloader: Any
    datamodule: Any
    global_step: int
    """Optimiser steps taken; what ``system.true_global_step`` gives."""
    lightning_module: Any
    """The system that is being evaluated, which may be a copy."""
    training = True
    current_epoch = 0
    """threestudio's data never ends, so neither does its first epoch."""

    def __init__(
        self,
        loader: Any,
        datamodule: Any = None,
        trainer: Any = None,
        stepper: FunctionalOptimizer | None = None,
    ) -> None:
        vars(self).update(
            train_dataloader=loader, datamodule=datamodule, global_step=0, lightning_module=None
        )
        vars(self).update(_trainer=trainer, _stepper=stepper, _held={})

    def copy(self) -> TrainerProxy:
        """Another view of the same trainer."""
        return TrainerProxy(self.train_dataloader, self.datamodule, self._trainer, self._stepper)

    def bind(self, system: Any, held: Mapping[str, torch.nn.Parameter]) -> None:
        """Say whose trainer this is, and its trained parameters by name."""
        vars(self).update(lightning_module=system, _held=held)

    def show(self, step: int) -> None:
        """Show the trainer as it is at a step."""
        vars(self)["global_step"] = step

    @property
    def model(self) -> Any:
        """The system that is being evaluated."""
        return self.lightning_module

    @property
    def optimizers(self) -> list[StepOptimizer]:
        """The optimiser as it is at this step, in a list, as a trainer has it."""
        stepper: FunctionalOptimizer | None = self._stepper
        if stepper is None:
            raise AttributeError("trainer has no 'optimizers' before the optimiser is known")
        options = stepper.options(self.global_step)
        held = [[self._held[name] for name in names] for names in stepper.names]
        return [
            StepOptimizer([{**group, "params": params} for group, params in zip(options, held, strict=True)])
        ]

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """Copies of the schedulers as they are at this step."""
        stepper: FunctionalOptimizer | None = self._stepper
        now = None if stepper is None else stepper.scheduler(self.global_step)
        if self._trainer is None:
            known = [] if now is None else [SimpleNamespace(scheduler=now, interval="step", frequency=1)]
            return [_still(config, now) for config in known]
        found = []
        for config in self._trainer.lr_scheduler_configs:
            scheduler = now
            if config.interval != "step":  # it waits for the end of an epoch, which never comes
                scheduler = copied(config.scheduler.optimizer, config.scheduler)[1]
            found.append(_still(dataclasses.replace(config), scheduler))
        return found

    @property
    def strategy(self) -> Any:
        """The strategy, which ``LightningModule.optimizers`` asks for the optimisers."""
        return Strategy(self)

    def __getattr__(self, name: str) -> Any:
        if name in UNKNOWN:
            raise NotAChain(
                f"trainer.{name} must not be used inside a step: there it stands at another step; leave it out, or run "
                "it in threestudio"
            )
        if name.startswith("__") or vars(self).get("_trainer") is None:
            raise AttributeError(f"trainer has no {name!r} while a step is evaluated")
        return getattr(self._trainer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(f"trainer.{name}", "leave it out")

    def __delattr__(self, name: str) -> None:
        _refuse(f"trainer.{name}", "leave it out")


@contextmanager
def attached(
    system: Any, proxy: TrainerProxy, logged: dict[str, torch.Tensor], device: torch.device
) -> Iterator[None]:
    """While this lasts a system sees a stand-in as its trainer, and the numbers that it logs are collected.

    Args:
        system: whose step is evaluated.
        proxy: what it sees.
        logged: where what it logs is put, by name.
        device: where these numbers are kept: nothing waits for them.
    """

    def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            logged[name] = value.detach().to(device, torch.float32, non_blocking=True).reshape(())
        elif isinstance(value, (int, float)):
            logged[name] = torch.full((), float(value), device=device)

    before = getattr(system, "_trainer", None)
    system.trainer, system.log = proxy, log
    try:
        yield
    finally:
        del system.log
        system.trainer = before


class Strategy:
    """The strategy of a trainer at a step."""

    def __init__(self, view: TrainerProxy) -> None:
        self._view = view

    @property
    def optimizers(self) -> list[StepOptimizer]:
        """The optimisers as the trainer's stand-in has them."""
        return self._view.optimizers

    _lightning_optimizers = optimizers

    def __getattr__(self, name: str) -> Any:
        trainer = vars(self._view)["_trainer"]
        if name.startswith("__") or trainer is None:
            raise AttributeError(f"strategy has no {name!r} while a step is evaluated")
        return getattr(trainer.strategy, name)


class Group(dict[str, Any]):
    """A group of an optimiser's parameters with its options at a step; can be read only."""

    def _refuse(self, key: Any = None, *_: Any, **named: Any) -> NoReturn:
        named = {**key, **named} if isinstance(key, Mapping) else named or {str(key or "options"): None}
        _refuse(f"the optimiser's {next(iter(named), 'options')}")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse  # type: ignore[assignment]


class StepOptimizer(torch.optim.Optimizer):
    """The optimiser as it is at a step: its groups can be read, with the parameters and gradients that are there.

    Args:
        groups: options by group, with the parameters.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        vars(self)["param_groups"] = tuple(Group(group) for group in groups)
        vars(self)["defaults"] = {}

    @property
    def optimizer(self) -> StepOptimizer:
        """The optimiser that Lightning would have wrapped: this one."""
        return self

    @property
    def state(self) -> NoReturn:  # type: ignore[override]
        """Moments are not there: those of a step ahead are not known before the steps in front of it are taken."""
        raise NotAChain(
            "the optimiser's state must not be read inside a step: there it is not known yet; leave it out, "
            "or run it in threestudio"
        )

    def step(self, closure: Any = None) -> NoReturn:
        """Raise: steps are taken by the loop."""
        _refuse("the optimiser's step")

    def zero_grad(self, set_to_none: bool = True) -> NoReturn:
        """Raise: gradients are dropped by the loop."""
        _refuse("the optimiser's gradients")

    def add_param_group(self, param_group: Any) -> NoReturn:
        """Raise: the parameters that are trained stay the same."""
        _refuse("the optimiser's groups")

    def load_state_dict(self, state_dict: Any) -> NoReturn:
        """Raise: what the optimiser remembers belongs to the state."""
        _refuse("the optimiser's state")

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(f"the optimiser's {name}")

    def __repr__(self) -> str:
        return f"StepOptimizer({[dict(group) for group in self.param_groups]})"


def _still(config: Any, scheduler: Any) -> Any:
    """A scheduler's entry with a copy of it that cannot be stepped."""

    def step(*_: Any, **__: Any) -> NoReturn:
        _refuse("the scheduler's step")

    scheduler.step = step
    config.scheduler = scheduler
    return config


def _refuse(
    what: str, remedy: str = "give schedules as the lr_scheduler of configure_optimizers"
) -> NoReturn:
    raise NotAChain(
        f"{what} must not be set inside a step: it would be set for another one; {remedy}, or run it in threestudio"
    )
