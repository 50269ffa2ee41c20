"""Options of a PyTorch optimiser by step: learning rates, and whatever else its scheduler sets."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch


class Options:
    """Options of the parameter groups by step: what stepping a copy of the scheduler makes of them."""

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        self._first = copy.deepcopy((optimizer, scheduler))
        # only the options are of use here, so tensors give their memory back
        self._first[0].state.clear()
        for group in self._first[0].param_groups:
            for parameter in group["params"]:
                parameter.data, parameter.grad = parameter.data.new_empty(0), None
        self._optimizer, self._scheduler = copy.deepcopy(self._first)
        self._options = [self._now()]

    def at(self, step: int) -> list[dict[str, Any]]:
        """Options of each group at a step."""
        if self._scheduler is None:
            return self._options[0]
        while len(self._options) <= step:
            _advance(self._scheduler)
            self._options.append(self._now())
        return self._options[step]

    def scheduler_state(self, step: int) -> dict[str, Any]:
        """The scheduler's own state at a step."""
        _, scheduler = copy.deepcopy(self._first)
        for _ in range(step):
            _advance(scheduler)
        state: dict[str, Any] = copy.deepcopy(scheduler.state_dict())
        return state

    def _now(self) -> list[dict[str, Any]]:
        groups = self._optimizer.param_groups
        return [copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in groups]


def _advance(scheduler: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimiser stepped in between is the point here
        scheduler.step()
