"""A PyTorch optimiser and its schedule as a pure function: parameters, moments and gradients in, new ones out.

Everything happens on copies: ``Optimizer.load_state_dict`` keeps the tensors it is given, and a rollout that
went on in place would corrupt the state that was accepted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamprop import optim
from dreamprop.adapters.hooks import refuse_step_hooks
from dreamprop.adapters.lr_schedule import OptimizerSchedule
from dreamprop.adapters.moments import Moments, Named
from dreamprop.process import Group
from dreamprop.state import check_names

SIGNLIKE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)
"""Their steps are about as long as the learning rate; those of others are measured."""
ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Rprop,
)  # fmt: skip
"""Optimisers that move every element by its own gradient and moments alone."""
OPTIONS = {"lr", "initial_lr", "weight_decay"}
"""Options of a group that a schedule sets: they are no memory."""


class FunctionalOptimizer:
    """Steps of an optimiser on named tensors.

    Args:
        optimizer: any that steps without a closure; it is copied and never written.
        scheduler: any that steps without a metric, or ``None``; stepped once after each step.
        names: of the parameters, by group.
        labels: of the groups; their index by default.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        names: Sequence[Sequence[str]],
        labels: Sequence[str] | None = None,
    ) -> None:
        if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
            raise ValueError("scheduler must hold the same optimizer, got one with another; make it anew")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ValueError("scheduler must be a function of the step, got ReduceLROnPlateau; use another")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer must step without a closure, got LBFGS; use another")
        refuse_step_hooks(optimizer)
        self.names = [list(group) for group in names]
        """The names of the parameters in each group."""
        self._labels = [str(i) for i in range(len(names))] if labels is None else list(labels)
        self._params = {name for group in self.names for name in group}
        # Python's types of the numbers that an optimiser keeps, which are tensors in a state
        self._kinds: dict[str, type] = {}
        self._group_kinds: dict[str, type] = {}
        # the scratch parameters an update writes into are nobody else's
        self._optimizer = copy.deepcopy(optimizer)
        self._start = self.read(optimizer)
        self._optimizer.state.clear()
        self._schedule = OptimizerSchedule(optimizer, scheduler)

    def init(self) -> Named:
        """The moments the optimiser had when it was given."""
        return {name: moment.clone() for name, moment in self._start.items()}

    def update(
        self,
        params: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        step: int,
        before: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> tuple[Named, Named]:
        """One step with the options that the schedule has at this step.

        Args:
            params: by name.
            moments: by ``<parameter>/<what>``.
            grads: by name; the optimiser passes over a parameter without one.
            step: of the chain.
            before: called with the parameters, their gradients in place, before the step: to clip them.

        Returns:
            New parameters and new moments.
        """
        scratch = self._optimizer
        scratch.state.clear()
        new: Named = {}
        slots = list(self._slots(scratch))
        check_names("state.params", params, dict(slots))
        known = Moments.split(moments, self._params)
        for name, slot in slots:
            slot.data = new[name] = params[name].detach().clone()
            slot.grad = grads[name].detach().clone() if name in grads else None
            if name in known.of_parameters:
                scratch.state[slot] = self._entry(known.of_parameters[name])
        given = self._options(known, step)
        for group, options in zip(scratch.param_groups, given, strict=True):
            for what in set(group) - set(options) - {"params"}:
                del group[what]  # remembered from another step, whose state had it
            group.update(copy.deepcopy(options))
        if before is not None:
            before([slot for _, slot in slots])
        scratch.step()
        for name, slot in slots:  # an optimiser may have given a parameter new memory
            new[name] = slot.data
        moved = self._read(scratch, given)
        # what an optimiser remembers of a group is kept once it is known, moved by this step or not
        of_groups = {
            i: known.of_groups.get(i, {}) | moved.of_groups.get(i, {}) for i in range(len(self.names))
        }
        scratch.state.clear()
        for _, slot in slots:
            slot.data, slot.grad = slot.data.new_empty(0), None
        return new, Moments(moved.of_parameters, of_groups).join()

    def predict(
        self, params: Mapping[str, Tensor], moments: Mapping[str, Tensor], step: int
    ) -> tuple[Named, Named]:
        """One step along the momentum of SGD, Adam and AdamW; for other optimisers what was given."""
        params, moments = dict(params), dict(moments)
        by_name = Moments.split(moments, self._params).of_parameters
        for names, options in zip(self.names, self._schedule.at(step), strict=True):
            for count in {_count(by_name.get(n), step) for n in names} - {0}:
                some = tuple(n for n in names if _count(by_name.get(n), step) == count)
                twin = _twin(type(self._optimizer), some, options, by_name[some[0]])
                if twin is None:
                    continue
                own = Moments({n: by_name[n] for n in some}).join()
                new_params, new_moments = twin.predict({n: params[n] for n in some}, own, count)
                params.update(new_params)
                moments.update({k: v for k, v in new_moments.items() if k in own})
        return params, moments

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's parameter groups.

        Their nominal step is the learning rate where steps are about as long as that, else it is measured.
        """
        lengths = isinstance(self._optimizer, SIGNLIKE)
        options = self._schedule.at(step)
        return {
            label: Group(tuple(names), float(o["lr"]) if lengths else None)
            for label, names, o in zip(self._labels, self.names, options, strict=True)
        }

    def elementwise(self) -> bool:
        """Whether the optimiser moves every element on its own.

        Raises:
            ValueError: it does not, or is not known to.
        """
        kind = type(self._optimizer)
        if kind not in ELEMENTWISE:
            known = ", ".join(known.__name__ for known in ELEMENTWISE)
            raise ValueError(
                f"optimizer must be one of {known} in layout sharded, got {kind.__name__}; use layout replicated"
            )
        return True

    def options(self, step: int) -> list[dict[str, Any]]:
        """Copies of the options that each group has at a step."""
        return copy.deepcopy(self._schedule.at(step))

    def scheduler(self, step: int) -> Any:
        """A copy of the scheduler as it is at a step; ``None`` where there is none."""
        return self._schedule.scheduler(step)

    def rates(self, step: int) -> dict[str, float]:
        """Learning rates at a step, under the names that Lightning's monitor gives them."""
        name = f"lr-{type(self._optimizer).__name__}"
        rates = [float(options["lr"]) for options in self._schedule.at(step)]
        if len(rates) == 1:
            return {name: rates[0]}
        return {f"{name}/{label}": rate for label, rate in zip(self._labels, rates, strict=True)}

    def write(
        self, optimizer: torch.optim.Optimizer, scheduler: Any, moments: Mapping[str, Tensor], step: int
    ) -> None:
        """Write moments into an optimiser, and the options of a step into it and its scheduler."""
        slots, known = dict(self._slots(optimizer)), Moments.split(moments, self._params)
        by_name = known.of_parameters
        check_names("state.moments", by_name, {name: slot for name, slot in slots.items() if name in by_name})
        for name, slot in slots.items():
            optimizer.state.pop(slot, None)
            if name in by_name:
                optimizer.state[slot] = self._entry(by_name[name])
        for group, options in zip(optimizer.param_groups, self._options(known, step), strict=True):
            group.update(copy.deepcopy(options))
        if scheduler is not None:
            scheduler.load_state_dict(self._schedule.scheduler_state(step))

    def read(self, optimizer: torch.optim.Optimizer, step: int | None = None) -> Named:
        """An optimiser's state as moments; numbers become scalars, and what is None is left out.

        Args:
            optimizer: with the same groups.
            step: it has been stepped up to, to tell what it remembers of a group from the options there; with
                ``None`` nothing is taken for that.
        """
        return self._read(optimizer, [] if step is None else self._schedule.at(step)).join()

    def _read(self, optimizer: torch.optim.Optimizer, given: Sequence[Mapping[str, Any]]) -> Moments:
        found = Moments()
        for name, slot in self._slots(optimizer):
            for what, value in optimizer.state.get(slot, {}).items():
                own = found.of_parameters.setdefault(name, {})
                if isinstance(value, Tensor):
                    own[what] = value.detach().clone()
                elif isinstance(value, (bool, int, float)):
                    own[what] = _number(what, value, self._kinds)
                elif value is not None:
                    kind = type(value).__name__
                    raise ValueError(
                        f"optimizer state must be tensors and numbers, got {kind} in {what!r}; use another"
                    )
        for i, options in enumerate(given):
            for what, value in optimizer.param_groups[i].items():
                if isinstance(value, (int, float)) and what not in OPTIONS and options.get(what) != value:
                    found.of_groups.setdefault(i, {})[what] = _number(what, value, self._group_kinds)
        return found

    def _options(self, moments: Moments, step: int) -> list[dict[str, Any]]:
        """Options of each group at a step, with what the optimiser remembers of the group."""
        found = [dict(options) for options in self._schedule.at(step)]
        for index, own in moments.of_groups.items():
            for what, value in own.items():
                found[index][what] = self._group_kinds.get(what, int)(value.item())
        return found

    def _slots(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
        for names, group in zip(self.names, optimizer.param_groups, strict=True):
            yield from zip(names, group["params"], strict=True)

    def _entry(self, moments: Mapping[str, Tensor]) -> dict[str, Any]:
        """An optimiser's own entry for a parameter: copies, and numbers again what was a number."""
        kinds = self._kinds
        return {k: kinds[k](v.item()) if k in kinds else v.clone() for k, v in moments.items()}


def clip(max_norm: float, norm: Tensor) -> Callable[[Sequence[Tensor]], None]:
    """Scale gradients in place as ``torch.nn.utils.clip_grad_norm_`` does, by a norm that is known already.

    The norm is taken where the whole gradient is, in the drift, so that a part of it can be clipped too.
    """
    return lambda parameters: torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)


def norm_of(grads: Mapping[str, Tensor]) -> Tensor:
    """The norm over all gradients together, as ``torch.nn.utils.clip_grad_norm_`` takes it."""
    return torch.nn.utils.get_total_norm(list(grads.values()))


def _number(what: str, value: float, kinds: dict[str, type]) -> Tensor:
    """A number as a tensor; its type is noted in ``kinds``, so that the optimiser gets it back as it was."""
    kinds[what] = type(value)
    return torch.tensor(value, dtype=torch.float64)


def _count(moments: Mapping[str, Tensor] | None, step: int) -> int:
    """How many updates the moments of a parameter have seen."""
    if not moments:
        return 0
    return int(moments["step"].item()) if "step" in moments else max(step, 1)


def _twin(
    kind: type, names: tuple[str, ...], options: Mapping[str, Any], moments: Mapping[str, Tensor]
) -> optim.Optimizer | None:
    """The pure optimiser that moves along the momentum as this one does."""
    o: dict[str, Any] = {k: float(v) if isinstance(v, Tensor) else v for k, v in options.items()}
    group = [optim.ParamGroup(names, o["lr"])]
    if kind is torch.optim.SGD and o["momentum"] and "momentum_buffer" in moments:
        return optim.SGD(group, o["momentum"], o["dampening"], o["nesterov"])
    if kind in (torch.optim.Adam, torch.optim.AdamW) and "exp_avg" in moments:
        pure = optim.AdamW if kind is torch.optim.AdamW else optim.Adam
        beta1, beta2 = (float(beta) for beta in o["betas"])
        return pure(group, (beta1, beta2), o["eps"], o["weight_decay"], o["amsgrad"])
    return None
