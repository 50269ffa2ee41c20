"""Any PyTorch loop as a process: a module, a loss, an optimiser, and a scheduler if there is one.

Their state is copied in and out, never referred to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamprop.adapters.buffers import moved
from dreamprop.adapters.hooks import hand_on
from dreamprop.adapters.original import Original, changed, versions, written
from dreamprop.adapters.purity import PurityCheck
from dreamprop.adapters.torch_optimizer import FunctionalOptimizer, clip, norm_of
from dreamprop.process import Group, Process
from dreamprop.rng import generator, seeded
from dreamprop.state import BufferWrite, Drift, State, check_names

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]


def wrap(
    module: nn.Module,
    loss_fn: Loss,
    optimizer: torch.optim.Optimizer,
    seed: int = 0,
    scheduler: Any = None,
    max_norm: float | None = None,
    *,
    check: bool = True,
) -> Wrapped:
    """A process from the parts of a PyTorch loop.

    ``for step in range(n): loss_fn(module, step, generator).backward(); optimizer.step(); scheduler.step()``

    The user's objects are left as they are until ``commit``.

    A drift must be a pure function of (parameters, buffers, step). ``loss_fn`` uses the module it is given, writes to
    no parameter, and draws random numbers from its generator, or from the global ones of torch, numpy and Python,
    which are seeded by (seed, step) for each call and put back after it. What it remembers otherwise (a counter, an
    iterator, an average, a generator of its own) makes it depend on the order of its calls: compute such things from
    the step, or keep them in buffers of the module.

    Checked at every call: that a parameter of the optimiser gets a gradient; that none of the original module's gets
    one, and none of its tensors is written to; that no parameter is written to. With ``check`` drifts are evaluated
    again at the 1st, 2nd, 3rd, 5th, 9th, 17th, ... step of a run, about 2 log2(n) further ones in n steps (21 in
    1000), and a state and its drift are kept from one time to the next. Memory that wakes later is found when at most
    twice as many steps have been done, if the run goes on so long. At these steps it is also seen that the loss does
    not call the original module without a gradient, nor writes to parameters through ``.data``.

    Not found, so the user's duty: memory that shows at some steps or in some calls only, or below the tolerance of
    ``purity.differences`` (none on one CPU thread, 1e-4 on several, 1e-2 on a GPU); values of the original read
    without calling it and without a gradient; learning rates read from the user's optimiser or scheduler, which stay
    where they are.

    Hooks of the module and of its parameters are called on the copies, and are part of the loss. Hooks of the
    optimiser's steps are refused.

    Args:
        module: its parameters in the optimiser and all its buffers are the state; the rest is constant.
        loss_fn: (module, step, generator) to a scalar.
        optimizer: any that steps without a closure.
        seed: of the random numbers.
        scheduler: any that steps without a metric; stepped once after each step.
        max_norm: gradients whose norm over all parameters is larger are scaled to it, as
            ``torch.nn.utils.clip_grad_norm_`` does; ``None``: none are.
        check: evaluate drifts again now and then; the result of a pure loss is the same without.

    Returns:
        The process; ``process.commit(state)`` writes a state into module, optimizer and scheduler.

    Raises:
        ValueError: the three do not belong together, one holds what cannot be copied, or a hook cannot be kept.
            While the process is solved: the loss uses another module than the one it is given.
        ImpureDrift: while the process is solved: a drift came out different when it was evaluated again. In both
            cases ``RankFailed`` with several processes.
    """
    return Wrapped(module, loss_fn, optimizer, seed, scheduler, max_norm, check)


class Wrapped(Process):
    """A process around a module, a loss, an optimiser and a schedule; see ``wrap``."""

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Loss,
        optimizer: torch.optim.Optimizer,
        seed: int,
        scheduler: Any,
        max_norm: float | None,
        check: bool,
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
        memo: dict[int, Any] = {}
        self._module = _copied(module, memo)
        self._stepper = FunctionalOptimizer(
            optimizer, scheduler, [[str(name) for name in names] for names in held]
        )
        moving = {name for names in self._stepper.names for name in names}
        hand_on(module, self._module, moving, memo)
        self._original = Original(module, self._module, moving)
        self._check = PurityCheck(self._again) if check else None

    def init(self) -> State:
        """The state of module and optimiser at the time they were wrapped, entering step 0."""
        if self._check is not None:
            self._check.begin()  # this is where runs begin
        module = self._user[0]
        named = dict(module.named_parameters())
        return State(
            {name: named[name].detach().clone() for names in self._stepper.names for name in names},
            self._stepper.init(),
            {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
            0,
        )

    def drift(self, state: State) -> Drift:
        """Gradients at a state, what the loss did to each buffer, and the gradients' norm where it is clipped by.

        Raises:
            ValueError: the loss uses another module than the one it is given, or writes to parameters.
            ImpureDrift: this drift, or an earlier one, is another when it is evaluated again.
        """
        drift = self._evaluate(state)
        if self._check is not None:
            self._check(state, drift)
        return drift

    def _again(self, state: State) -> Drift:
        """A drift once more, with a closer look at what the loss does."""
        with self._original.uncalled():
            drift = self._evaluate(state)
        now = dict(self._module.named_parameters())
        self._unwritten(state, {name: now[name] for name in state.params})
        return drift

    def _unwritten(self, state: State, parameters: Mapping[str, Tensor]) -> None:
        """Raise where the loss has left a parameter with other values than it was given."""
        constants = {n: p for n, p in self._user[0].named_parameters() if n not in state.params}
        name = changed(parameters, {**constants, **state.params})
        if name is not None:
            raise ValueError(
                f"loss_fn must not write to parameters, wrote to {name!r}, which no drift carries; "
                "compute with the value that it would write, or keep it in a buffer"
            )

    def _evaluate(self, state: State) -> Drift:
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
        before = versions(parameters)
        with self._original.aside(), seeded(self._seed, state.step, next(iter(held.values())).device):
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
        if not grads:
            raise ValueError(
                f"loss_fn must give a parameter of the optimizer a gradient, got none at step {state.step}; "
                "use the module it is given"
            )
        if wrote := written(before, versions(parameters)):  # some kernels write what was there
            self._unwritten(state, {name: parameters[name] for name in wrote})
        after = dict(scratch.named_buffers())
        check_names("buffers after the loss", after, state.buffers)
        writes = {n: BufferWrite(state.buffers[n], b.detach().clone()) for n, b in after.items()}
        return Drift(grads, writes=writes, grad_norm=None if self._max_norm is None else norm_of(grads))

    def update(self, state: State, drift: Drift) -> State:
        """One step of the optimiser on copies, with the options that its schedule has at this step.

        Buffers: entries that the drift changed move by what it changed, ``b + (new - old)``, so that flags, running
        averages and counters go on from accepted values; the others stay as they are.
        """
        clipped = None
        if self._max_norm is not None:
            assert drift.grad_norm is not None, (
                "a drift of a loop that clips brings the norm of its gradients"
            )
            clipped = clip(self._max_norm, drift.grad_norm)
        params, moments = self._stepper.update(state.params, state.moments, drift.grads, state.step, clipped)
        writes = drift.writes
        buffers = {n: moved(b, writes[n].old, writes[n].new) for n, b in state.buffers.items()}
        return State(params, moments, buffers, state.step + 1)

    def predict(self, state: State) -> State:
        """One step along the momentum of SGD, Adam and AdamW; for other optimisers a copy."""
        params, moments = self._stepper.predict(state.params, state.moments, state.step)
        return State(params, moments, state.buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's parameter groups, in units of their learning rates; see ``FunctionalOptimizer.groups``."""
        return self._stepper.groups(step)

    def elementwise(self, step: int) -> bool:
        """Whether the optimiser moves every element by its own gradient and moments alone, as layout ``sharded`` asks.

        Raises:
            ValueError: it does not, or is not known to.
        """
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


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"module must be such that copy.deepcopy copies it, got {reason!r}; keep what it cannot copy elsewhere"
        ) from error
