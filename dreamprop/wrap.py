"""Any PyTorch loop as a process: a module, a loss, an optimiser, and a scheduler if there is one.

Their state is copied in and out, never referred to: ``Optimizer.load_state_dict`` keeps the tensors it is
given, and a rollout that went on in place would corrupt the state that was accepted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamprop import optim
from dreamprop.options import Options
from dreamprop.process import Group
from dreamprop.rng import generator, seeded
from dreamprop.state import Drift, State, check_names

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]

ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Rprop,
)  # fmt: skip
"""They move every element by its own gradient and moments alone."""
SIGNLIKE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)
"""Their steps are about as long as the learning rate; those of others are measured."""


def wrap(
    module: nn.Module,
    loss_fn: Loss,
    optimizer: torch.optim.Optimizer,
    seed: int = 0,
    scheduler: Any = None,
) -> Wrapped:
    """A process from the parts of a PyTorch loop.

    ``for step in range(n): loss_fn(module, step, generator).backward(); optimizer.step(); scheduler.step()``

    The user's objects are left as they are until ``commit``. What must hold, and cannot be checked:

    * ``loss_fn`` uses the module it is given, not the user's own.
    * It depends on parameters, buffers, step and random numbers only: from its generator, or from the global
      ones of torch, numpy and Python, which are seeded by (seed, step) for each call and put back after it.
      A loss that counts in Python attributes, or draws batches from an iterator, depends on the order of its
      calls: compute those from the step.

    Args:
        module: its parameters in the optimiser and all its buffers are the state; the rest is constant.
        loss_fn: (module, step, generator) to a scalar.
        optimizer: any that steps without a closure.
        seed: of the random numbers.
        scheduler: any that steps without a metric; stepped once after each step.

    Returns:
        The process; ``process.commit(state)`` writes a state into module, optimizer and scheduler.

    Raises:
        ValueError: the three do not belong together, or one holds what cannot be copied.
    """
    return Wrapped(module, loss_fn, optimizer, seed, scheduler)


class Wrapped:
    """A process around a module, a loss, an optimiser and a schedule; see ``wrap``."""

    boundaries: tuple[int, ...] = ()

    def __init__(
        self, module: nn.Module, loss_fn: Loss, optimizer: torch.optim.Optimizer, seed: int, scheduler: Any
    ) -> None:
        if not callable(loss_fn):
            raise ValueError(
                f"loss_fn must be called as (module, step, generator), got {loss_fn!r}; give a function"
            )
        if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
            raise ValueError("scheduler must hold the same optimizer, got one with another; make it anew")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ValueError("scheduler must be a function of the step, got ReduceLROnPlateau; use another")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer must step without a closure, got LBFGS; use another")
        self._user = (module, optimizer, scheduler)
        self._loss_fn, self._seed = loss_fn, seed
        by_id = {id(p): name for name, p in module.named_parameters()}
        held = [[by_id.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
        if any(name is None for names in held for name in names):
            raise ValueError(
                "optimizer must hold parameters of the module only, got others; pass module.parameters()"
            )
        self._names: list[list[str]] = [[str(name) for name in names] for names in held]
        # two sets of scratch parameters: the ones a drift writes into must never be those an update hands out
        self._module = copy.deepcopy(module)
        self._optimizer = copy.deepcopy(optimizer)
        self._kinds: dict[str, type] = {}
        self._start = self._read(optimizer)
        self._optimizer.state.clear()
        self._schedule = Options(optimizer, scheduler)

    def init(self) -> State:
        """The state of module and optimiser at the time they were wrapped, entering step 0."""
        module = self._user[0]
        named = dict(module.named_parameters())
        return State(
            {name: named[name].detach().clone() for names in self._names for name in names},
            {name: moment.clone() for name, moment in self._start.items()},
            {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
            0,
        )

    def drift(self, state: State) -> Drift:
        """Gradients at a state; in aux each buffer before it, ``old/<name>``, and after, ``new/<name>``."""
        scratch = self._module
        parameters, buffers = dict(scratch.named_parameters()), dict(scratch.named_buffers())
        held = {name: parameters[name] for names in self._names for name in names}
        check_names("state.params", state.params, held)
        check_names("state.buffers", state.buffers, buffers)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.grad = None
                if name in held:
                    parameter.copy_(state.params[name])
            for name, buffer in buffers.items():
                buffer.copy_(state.buffers[name])
        with seeded(self._seed, state.step, next(iter(held.values())).device):
            loss = self._loss_fn(scratch, state.step, generator(self._seed, state.step, "loss"))
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise ValueError(
                    f"loss_fn must return a scalar with a gradient, got {loss!r}; use its module"
                )
            loss.backward()
        # a parameter without a part in the loss has no gradient, and the optimiser passes over it
        grads = {name: p.grad for name, p in held.items() if p.grad is not None}
        for parameter in parameters.values():
            parameter.grad = None
        after = dict(scratch.named_buffers())
        check_names("buffers after the loss", after, state.buffers)
        aux = {f"new/{name}": buffer.detach().clone() for name, buffer in after.items()}
        return Drift(grads, aux | {f"old/{name}": state.buffers[name] for name in after})

    def update(self, state: State, drift: Drift) -> State:
        """One step of the optimiser on copies, with the options that its schedule has at this step.

        Buffers: the change that the drift saw is applied to this state's, ``b + (new - old)``, so that
        running averages and counters go on from accepted values; where b is the old value it becomes the new.
        """
        scratch = self._optimizer
        scratch.state.clear()
        params: dict[str, Tensor] = {}
        slots = list(self._slots(scratch))
        check_names("state.params", state.params, dict(slots))
        by_name = self._split(state.moments)
        for name, slot in slots:
            slot.data = params[name] = state.params[name].detach().clone()
            slot.grad = drift.grads[name].detach().clone() if name in drift.grads else None
            if name in by_name:
                scratch.state[slot] = {k: self._back(k, v.clone()) for k, v in by_name[name].items()}
        for group, options in zip(scratch.param_groups, self._schedule.at(state.step), strict=True):
            group.update(options)
        scratch.step()
        for name, slot in slots:  # an optimiser may have given a parameter new memory
            params[name] = slot.data
        moments = self._read(scratch)
        scratch.state.clear()
        for _, slot in slots:
            slot.data, slot.grad = slot.data.new_empty(0), None
        aux = drift.aux
        buffers = {n: _moved(b, aux[f"old/{n}"], aux[f"new/{n}"]) for n, b in state.buffers.items()}
        return State(params, moments, buffers, state.step + 1)

    def predict(self, state: State) -> State:
        """One step along the momentum of SGD, Adam and AdamW; for other optimisers a copy."""
        params, moments = dict(state.params), dict(state.moments)
        by_name = self._split(state.moments)
        for names, options in zip(self._names, self._schedule.at(state.step), strict=True):
            for count in {_count(by_name.get(n), state.step) for n in names} - {0}:
                some = tuple(n for n in names if _count(by_name.get(n), state.step) == count)
                twin = _twin(type(self._optimizer), some, options, by_name[some[0]])
                if twin is None:
                    continue
                own = {f"{n}/{k}": v for n in some for k, v in by_name[n].items()}
                new_params, new_moments = twin.predict({n: params[n] for n in some}, own, count)
                params.update(new_params)
                moments.update({k: v for k, v in new_moments.items() if k in own})
        return State(params, moments, state.buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's parameter groups with their learning rates; measured where that is no length."""
        lengths = isinstance(self._optimizer, SIGNLIKE)
        return {
            str(i): Group(tuple(names), float(options["lr"]) if lengths else None)
            for i, (names, options) in enumerate(zip(self._names, self._schedule.at(step), strict=True))
        }

    def elementwise(self, step: int) -> bool:
        """Whether the optimiser moves every element on its own, for states in pieces.

        Raises:
            ValueError: it does not, or is not known to.
        """
        if type(self._optimizer) not in ELEMENTWISE:
            known = ", ".join(kind.__name__ for kind in ELEMENTWISE)
            raise ValueError(
                f"optimizer must be one of {known} in layout sharded, got {type(self._optimizer).__name__}; "
                "use layout replicated"
            )
        return True

    def commit(self, state: State) -> None:
        """Write a state into the user's module, optimiser and scheduler, as if stepped up to it."""
        module, optimizer, scheduler = self._user
        parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        slots = dict(self._slots(optimizer))
        check_names("state.params", state.params, slots)
        check_names("state.buffers", state.buffers, buffers)
        by_name = self._split(state.moments)
        check_names("state.moments", by_name, {name: slot for name, slot in slots.items() if name in by_name})
        with torch.no_grad():
            for name, tensor in state.params.items():
                parameters[name].copy_(tensor)
            for name, tensor in state.buffers.items():
                buffers[name].copy_(tensor)
        for name, slot in slots.items():
            optimizer.state.pop(slot, None)
            if name in by_name:
                optimizer.state[slot] = {k: self._back(k, v.clone()) for k, v in by_name[name].items()}
        for group, options in zip(optimizer.param_groups, self._schedule.at(state.step), strict=True):
            group.update(copy.deepcopy(options))
        if scheduler is not None:
            scheduler.load_state_dict(self._schedule.scheduler_state(state.step))

    def _slots(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
        for names, group in zip(self._names, optimizer.param_groups, strict=True):
            yield from zip(names, group["params"], strict=True)

    def _read(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The optimiser's state as moments; numbers become scalars, and what is None is left out."""
        moments: dict[str, Tensor] = {}
        for name, slot in self._slots(optimizer):
            for what, value in optimizer.state.get(slot, {}).items():
                if isinstance(value, Tensor):
                    moments[f"{name}/{what}"] = value.detach().clone()
                elif isinstance(value, (bool, int, float)):
                    self._kinds[what] = type(value)
                    moments[f"{name}/{what}"] = torch.tensor(value, dtype=torch.float64)
                elif value is not None:
                    kind = type(value).__name__
                    raise ValueError(
                        f"optimizer state must be tensors and numbers, got {kind} in {what!r}; use another"
                    )
        return moments

    def _back(self, what: str, value: Tensor) -> Any:
        return self._kinds[what](value.item()) if what in self._kinds else value

    def _split(self, moments: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        by_name: dict[str, dict[str, Tensor]] = {}
        for full, moment in moments.items():
            name, _, what = full.rpartition("/")
            by_name.setdefault(name, {})[what] = moment
        return by_name


def _moved(buffer: Tensor, old: Tensor, new: Tensor) -> Tensor:
    if buffer.dtype == torch.bool:
        return new.clone()
    return torch.where(buffer == old, new, buffer + (new - old))


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
