"""Any PyTorch loop as a process: a module, a loss, an optimiser, and a scheduler if there is one.

Their state is copied in and out, never referred to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamprop.buffers import moved
from dreamprop.process import Group
from dreamprop.rng import generator, seeded
from dreamprop.state import Drift, State, check_names
from dreamprop.stepper import Stepper, clip, norm_of

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]
NORM = "norm"
"""Where a drift keeps the norm of its gradients; no buffer's."""


def wrap(
    module: nn.Module,
    loss_fn: Loss,
    optimizer: torch.optim.Optimizer,
    seed: int = 0,
    scheduler: Any = None,
    max_norm: float | None = None,
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
        max_norm: gradients whose norm over all parameters is larger are scaled to it, as
            ``torch.nn.utils.clip_grad_norm_`` does; ``None``: none are.

    Returns:
        The process; ``process.commit(state)`` writes a state into module, optimizer and scheduler.

    Raises:
        ValueError: the three do not belong together, or one holds what cannot be copied.
    """
    return Wrapped(module, loss_fn, optimizer, seed, scheduler, max_norm)


class Wrapped:
    """A process around a module, a loss, an optimiser and a schedule; see ``wrap``."""

    boundaries: tuple[int, ...] = ()

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Loss,
        optimizer: torch.optim.Optimizer,
        seed: int,
        scheduler: Any,
        max_norm: float | None,
    ) -> None:
        if not callable(loss_fn):
            raise ValueError(
                f"loss_fn must be called as (module, step, generator), got {loss_fn!r}; give a function"
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be > 0, got {max_norm}; use None to clip nothing")
        self._max_norm = max_norm
        self._user = (module, optimizer, scheduler)
        self._loss_fn, self._seed = loss_fn, seed
        by_id = {id(p): name for name, p in module.named_parameters()}
        held = [[by_id.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
        if any(name is None for names in held for name in names):
            raise ValueError(
                "optimizer must hold parameters of the module only, got others; pass module.parameters()"
            )
        # two sets of scratch parameters: the ones a drift writes into must never be those an update hands out
        self._module = copy.deepcopy(module)
        self._stepper = Stepper(optimizer, scheduler, [[str(name) for name in names] for names in held])

    def init(self) -> State:
        """The state of module and optimiser at the time they were wrapped, entering step 0."""
        module = self._user[0]
        named = dict(module.named_parameters())
        return State(
            {name: named[name].detach().clone() for names in self._stepper.names for name in names},
            self._stepper.init(),
            {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
            0,
        )

    def drift(self, state: State) -> Drift:
        """Gradients at a state; in aux each buffer before it, ``old/<name>``, and after, ``new/<name>``."""
        scratch = self._module
        parameters, buffers = dict(scratch.named_parameters()), dict(scratch.named_buffers())
        held = {name: parameters[name] for names in self._stepper.names for name in names}
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
        if self._max_norm is not None:
            aux[NORM] = norm_of(grads)
        return Drift(grads, aux | {f"old/{name}": state.buffers[name] for name in after})

    def update(self, state: State, drift: Drift) -> State:
        """One step of the optimiser on copies, with the options that its schedule has at this step.

        Buffers: entries that the drift changed move by what it changed, ``b + (new - old)``, so that flags, running
        averages and counters go on from accepted values; the others stay as they are.
        """
        aux = drift.aux
        clipped = clip(self._max_norm, aux[NORM]) if self._max_norm is not None else None
        params, moments = self._stepper.update(state.params, state.moments, drift.grads, state.step, clipped)
        buffers = {n: moved(b, aux[f"old/{n}"], aux[f"new/{n}"]) for n, b in state.buffers.items()}
        return State(params, moments, buffers, state.step + 1)

    def predict(self, state: State) -> State:
        """One step along the momentum of SGD, Adam and AdamW; for other optimisers a copy."""
        params, moments = self._stepper.predict(state.params, state.moments, state.step)
        return State(params, moments, state.buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's parameter groups with their learning rates; measured where that is no length."""
        return self._stepper.groups(step)

    def elementwise(self, step: int) -> bool:
        """Whether the optimiser moves every element on its own, for states in pieces; else raises why not."""
        return self._stepper.elementwise()

    def commit(self, state: State) -> None:
        """Write a state into the user's module, optimiser and scheduler, as if stepped up to it."""
        module, optimizer, scheduler = self._user
        parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        check_names("state.params", state.params, [n for names in self._stepper.names for n in names])
        check_names("state.buffers", state.buffers, buffers)
        self._stepper.write(optimizer, scheduler, state.moments, state.step)
        with torch.no_grad():
            for name, tensor in state.params.items():
                parameters[name].copy_(tensor)
            for name, tensor in state.buffers.items():
                buffers[name].copy_(tensor)
