"""Any PyTorch loop as a process: a module, a loss, an optimiser, and a scheduler if there is one.

Their state is copied in and out, never referred to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamprop.adapters.buffers import moved
from dreamprop.adapters.frozen import FrozenNetworks
from dreamprop.adapters.loss_drift import LossDrift, StepLoss, own_buffers
from dreamprop.adapters.purity import PurityCheck, beside_tolerance
from dreamprop.adapters.side_by_side import SideBySide
from dreamprop.adapters.torch_optimizer import FunctionalOptimizer, clip
from dreamprop.adapters.vectorized import MappedLoss, SampleFn, Sampling, Vectorized
from dreamprop.process import Group, Process
from dreamprop.rng import generator
from dreamprop.state import Drift, State, check_names

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]


def wrap(
    module: nn.Module,
    loss_fn: Loss | MappedLoss,
    optimizer: torch.optim.Optimizer,
    seed: int = 0,
    scheduler: Any = None,
    max_norm: float | None = None,
    *,
    frozen: Sequence[nn.Module] = (),
    vectorize: bool = False,
    sample_fn: SampleFn | None = None,
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

    A window is evaluated one step after another, which gains on several devices alone, or, to gain on one too,

    * side by side, with ``frozen``: each step on its own copy of the module, in a thread of its own, one at a time;
      where they call a network in ``frozen``, or a part of one, they wait for each other, and the network is run
      once for all of them. Gradients flow through such calls where they are recorded, and the backward pass is one
      for all steps. It must draw no random numbers, and ``loss_fn`` must not differentiate through these networks
      itself. Objects outside of the module are shared by steps that take turns at these calls: what a loss leaves
      there before one may be another step's after it.
    * mapped, with ``vectorize``: parameters, buffers and draws are stacked, and ``torch.func.vmap`` maps the loss over
      them. What differs from step to step must be a tensor then: draws come from ``sample_fn``, and ``loss_fn`` is
      called as (module, step, sample), with the step as an integer tensor of no dimensions on the device of the
      parameters, alone and in windows alike. In ``sample_fn`` it is a number: decisions by the step belong there.

    Both agree with one after another to rounding. A run at ``tolerance=0`` or ``window=1`` evaluates one after another.
    With ``check`` a step at which a check is due is evaluated alone and compared, instead of twice alone.

    Args:
        module: its parameters in the optimiser and all its buffers are the state; the rest is constant.
        loss_fn: (module, step, generator) to a scalar; with ``vectorize`` (module, step, sample).
        optimizer: any that steps without a closure.
        seed: of the random numbers.
        scheduler: any that steps without a metric; stepped once after each step.
        max_norm: gradients whose norm over all parameters is larger are scaled to it, as
            ``torch.nn.utils.clip_grad_norm_`` does; ``None``: none are.
        frozen: networks that the loss calls and nothing trains, the objects themselves: a U-Net, an autoencoder. They
            answer row by row, and stay as they are.
        vectorize: map the loss over a window; not together with ``frozen``, whose calls would be mapped too.
        sample_fn: with ``vectorize``: (step, generator) to tensors, alone or in tuples, lists and dicts, of the same
            shapes at every step; they are moved to the device of the parameters.
        check: evaluate drifts again now and then; the result of a pure loss is the same without.

    Returns:
        The process; ``process.commit(state)`` writes a state into module, optimizer and scheduler.

    Raises:
        ValueError: the three do not belong together, one holds what cannot be copied, a hook cannot be kept, or a
            network is not frozen. While the process is solved: the loss uses another module than the one it is given,
            or does what ``frozen`` or ``vectorize`` cannot do.
        ImpureDrift: while the process is solved: a drift came out different when it was evaluated again. In both
            cases ``RankFailed`` with several processes.
    """
    if vectorize and frozen:
        raise ValueError(
            "frozen must be left out with vectorize=True, which maps the calls of all networks; give one of the two"
        )
    if vectorize != (sample_fn is not None):
        raise ValueError(
            "sample_fn must be given with vectorize=True, and only then, got "
            f"vectorize={vectorize} and sample_fn={sample_fn!r}; give both or none"
        )
    return Wrapped(module, loss_fn, optimizer, seed, scheduler, max_norm, frozen, sample_fn, check)


class Wrapped(Process):
    """A process around a module, a loss, an optimiser and a schedule; see ``wrap``."""

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Loss | MappedLoss,
        optimizer: torch.optim.Optimizer,
        seed: int,
        scheduler: Any,
        max_norm: float | None,
        frozen: Sequence[nn.Module],
        sample_fn: SampleFn | None,
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
        by_id = {id(p): name for name, p in module.named_parameters()}
        held = [[by_id.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
        if any(name is None for names in held for name in names):
            raise ValueError(
                "optimizer must hold parameters of the module only, got others; pass module.parameters()"
            )
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        self._frozen = FrozenNetworks(frozen, trained)
        # two sets of scratch parameters: the ones a drift writes into must never be those an update hands out
        self._stepper = FunctionalOptimizer(
            optimizer, scheduler, [[str(name) for name in names] for names in held]
        )
        names = [name for group in self._stepper.names for name in group]
        by_norm = max_norm is not None
        self._together: SideBySide | Vectorized | None = None
        if sample_fn is not None:
            sampling = Sampling(cast(MappedLoss, loss_fn), sample_fn, seed, trained[0].device)
            self._drift = LossDrift(module, names, sampling, seed, self._frozen, by_norm)
            self._together = Vectorized(self._drift, sampling, names)
        else:
            given = cast(Loss, loss_fn)
            loss: StepLoss = lambda m, step: given(m, step, generator(seed, step, "loss"))  # noqa: E731
            self._drift = LossDrift(module, names, loss, seed, self._frozen, by_norm)
            if frozen:
                self._together = SideBySide(self._drift)
        self._rounding = beside_tolerance([*trained, *self._frozen.tensors])
        self._check = PurityCheck(self._drift.again) if check else None

    @property
    def fused(self) -> bool:
        """Whether windows are evaluated together, by ``frozen`` or ``vectorize``."""
        return self._together is not None

    def init(self) -> State:
        """The state of module and optimiser at the time they were wrapped, entering step 0."""
        if self._check is not None:
            self._check.begin()  # this is where runs begin
        module = self._user[0]
        named = dict(module.named_parameters())
        return State(
            {name: named[name].detach().clone() for names in self._stepper.names for name in names},
            self._stepper.init(),
            {name: buffer.detach().clone() for name, buffer in own_buffers(module, self._frozen).items()},
            0,
        )

    def drift(self, state: State) -> Drift:
        """Gradients at a state, what the loss did to each buffer, and the gradients' norm where it is clipped by.

        Raises:
            ValueError: the loss uses another module than the one it is given, or writes to parameters.
            ImpureDrift: this drift, or an earlier one, is another when it is evaluated again.
        """
        drift = self._drift(state)
        if self._check is not None:
            self._check(state, drift)
        return drift

    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """The drifts of several states, together where ``frozen`` or ``vectorize`` says how.

        Raises:
            ValueError: as ``drift`` does, or the loss does what cannot be done together.
            ImpureDrift: a drift is another when it is evaluated again, or alone.
        """
        if self._together is None or len(states) == 1:
            return [self.drift(state) for state in states]
        drifts = self._together(states)
        if self._check is not None:
            for state, drift in zip(states, drifts, strict=True):
                self._check.beside(state, drift, self._rounding, self._together.remedy)
        return drifts

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
        parameters, buffers = dict(module.named_parameters()), own_buffers(module, self._frozen)
        check_names("state.params", state.params, [n for names in self._stepper.names for n in names])
        check_names("state.buffers", state.buffers, buffers)
        self._stepper.write(optimizer, scheduler, state.moments, state.step)
        with torch.no_grad():
            for name, tensor in state.params.items():
                parameters[name].copy_(tensor)
            for name, tensor in state.buffers.items():
                buffers[name].copy_(tensor)
