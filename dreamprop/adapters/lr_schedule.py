"""Options of a PyTorch optimiser by step: learning rates, and whatever else its scheduler sets."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from typing import Any

import torch

KEPT = 64
"""Steps at which a copy of the scheduler is kept to go on from."""


class OptimizerSchedule:
    """Options of the parameter groups by step: what stepping a copy of the scheduler makes of them."""

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        self._kept = {0: copied(optimizer, scheduler)}
        self._optimizer, self._scheduler = copied(optimizer, scheduler)
        self._options = [self._now()]

    def at(self, step: int) -> list[dict[str, Any]]:
        """The options that each parameter group has at a step."""
        if self._scheduler is None:
            return self._options[0]
        while len(self._options) <= step:
            _advance(self._scheduler)
            self._options.append(self._now())
        return self._options[step]

    def scheduler(self, step: int) -> Any:
        """A copy of the scheduler as it is at a step; ``None`` where there is none."""
        near = max(known for known in self._kept if known <= step)
        optimizer, scheduler = copied(*self._kept[near])
        if scheduler is None or near == step:
            return scheduler
        for _ in range(near, step):
            _advance(scheduler)
        self._kept[step] = copied(optimizer, scheduler)
        if len(self._kept) > KEPT:  # steps are asked for in windows that slide on
            del self._kept[min(known for known in self._kept if known)]
        return scheduler

    def scheduler_state(self, step: int) -> dict[str, Any]:
        """A copy of the scheduler's ``state_dict`` as it is at a step."""
        state: dict[str, Any] = copy.deepcopy(self.scheduler(step).state_dict())
        return state

    def _now(self) -> list[dict[str, Any]]:
        groups = self._optimizer.param_groups
        return [copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in groups]


def copied(optimizer: torch.optim.Optimizer, scheduler: Any) -> tuple[torch.optim.Optimizer, Any]:
    """Copies that hold the options alone: their parameters are empty, and the optimiser remembers nothing."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    memo: dict[int, Any] = {id(p): torch.nn.Parameter(p.detach().new_empty(0), p.requires_grad) for p in held}
    memo[id(optimizer.state)] = defaultdict(dict)
    made: tuple[torch.optim.Optimizer, Any] = copy.deepcopy((optimizer, scheduler), memo)
    return made


def _advance(scheduler: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimiser stepped in between is the point here
        scheduler.step()
