"""What the optimisers share: schedules, parameter groups, and the check that names agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamprop.optim.moments import SKIPPED, moment_key
from dreamprop.process import Group
from dreamprop.schedule import Schedule, schedule
from dreamprop.state import check_names

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate and other options."""

    names: tuple[str, ...]
    """Names of parameters."""
    lr: Schedule
    """Learning rate by step."""
    options: Mapping[str, Schedule] = field(default_factory=dict)
    """What overrides the optimiser's own values for this group: ``weight_decay``, ``eps``, ``beta1``, ..."""
    name: str = ""
    """What reports call the group; empty: the parameter's name if it is alone, else the position."""

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ValueError(f"names must be a tuple of names, got {self.names!r}; write ({self.names!r},)")
        object.__setattr__(self, "names", tuple(self.names))


@runtime_checkable
class Optimizer(Protocol):
    """A pure optimiser: new tensors from old ones, nothing in place."""

    elementwise: bool
    """Whether every element moves by its own gradient and moments alone."""

    def init(self, params: Tensors) -> Tensors:
        """Moments before the first update, by ``<parameter>/<moment>``."""
        ...

    def update(self, params: Tensors, moments: Tensors, grads: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments after one update with these gradients."""
        ...

    def predict(self, params: Tensors, moments: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments after one update along the momentum, without a gradient."""
        ...

    def skip_update(self, moments: Tensors) -> Tensors:
        """Moments when the update is left out: the running means, and what corrects their bias, stay."""
        ...

    def groups(self, step: int) -> Mapping[str, Group]:
        """The error groups of the update at this step."""
        ...


class Grouped:
    """An optimiser's parameter groups, and their options as functions of the step.

    Args:
        groups: parameters with their learning rates; each parameter is in one group.
        options: by name the values of the optimiser's options, which a group may override.

    Raises:
        ValueError: a group has an unknown option, or shares a parameter or its label with another.
    """

    elementwise = True
    moments: tuple[str, ...] = ()
    """What is remembered for each parameter."""

    def __init__(self, groups: Sequence[ParamGroup], **options: Schedule) -> None:
        groups = [groups] if isinstance(groups, ParamGroup) else list(groups)
        self._groups: dict[str, tuple[tuple[str, ...], Callable[[int], dict[str, float]]]] = {}
        seen: set[str] = set()
        for position, group in enumerate(groups):
            unknown = sorted(set(group.options) - set(options))
            if unknown:
                known = ", ".join(sorted(options))
                raise ValueError(f"option must be one of {known}, got {unknown[0]!r}; drop it from the group")
            twice = sorted(seen.intersection(group.names)) or [
                n for n in group.names if group.names.count(n) > 1
            ]
            if twice:
                raise ValueError(f"a parameter must be in one group, got {twice[0]!r} twice; drop one")
            seen.update(group.names)
            label = group.name or (group.names[0] if len(group.names) == 1 else str(position))
            if label in self._groups:
                raise ValueError(f"names of groups must differ, got {label!r} twice; rename one")
            functions = {key: schedule(group.options.get(key, value)) for key, value in options.items()}
            functions["lr"] = schedule(group.lr)
            self._groups[label] = (group.names, _at(functions))
        self._names = dict.fromkeys(seen)

    def init(self, params: Tensors) -> Tensors:
        """Moments before the first update: zeros of the shape of their parameter."""
        check_names("the optimiser's groups", self._names, params)
        return {moment_key(name, m): p.new_zeros(p.shape) for name, p in params.items() for m in self.moments}

    def skip_update(self, moments: Tensors) -> Tensors:
        """Moments that know of one update less than there were steps.

        The count lies in the memory of the host, as the step counts of ``torch.optim`` do, so that no update waits
        for the device to know its bias correction.
        """
        skipped = int(moments[SKIPPED]) if SKIPPED in moments else 0
        return {**moments, SKIPPED: torch.tensor(skipped + 1, device="cpu")}

    def _counted(self, moments: Tensors, step: int) -> tuple[Tensors, int]:
        """Moments with the count of left-out updates on the host, and the number of updates before a step.

        A state that was moved to a device as a whole took its count along: it is read once, and the states that
        follow have it on the host.
        """
        if SKIPPED not in moments:
            return dict(moments), step
        skipped = moments[SKIPPED].cpu()
        return {**moments, SKIPPED: skipped}, step - int(skipped)

    def groups(self, step: int) -> Mapping[str, Group]:
        """Each parameter group with its learning rate at this step."""
        return {label: Group(names, at(step)["lr"]) for label, (names, at) in self._groups.items()}

    def _check(self, params: Tensors, moments: Tensors, grads: Tensors | None = None) -> None:
        check_names("the optimiser's groups", self._names, params)
        for m in self.moments:
            for name in params:
                if (key := moment_key(name, m)) not in moments:
                    raise ValueError(f"moments must hold {key}; take them from init(params)")
        if grads is not None:
            check_names("grads", grads, params)


def _at(functions: Mapping[str, Callable[[int], float]]) -> Callable[[int], dict[str, float]]:
    return lambda step: {key: float(function(step)) for key, function in functions.items()}
