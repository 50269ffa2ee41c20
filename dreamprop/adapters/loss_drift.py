"""The drift of a loss: its gradients, and what it did to buffers, on a copy of the module that was wrapped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamprop.adapters.frozen import FrozenNetworks
from dreamprop.adapters.hooks import hand_on
from dreamprop.adapters.original import Original, changed, versions, written
from dreamprop.adapters.torch_optimizer import norm_of
from dreamprop.rng import seeded
from dreamprop.state import BufferWrite, Drift, State, check_names

StepLoss = Callable[[nn.Module, int], Tensor]
"""(module, step) to a scalar; what it draws from the global generators is seeded around it."""


class ModuleCopy:
    """A copy of the module that was wrapped, with what frozen networks have shared.

    Args:
        module: to copy.
        held: names of the parameters that the optimiser moves.
        frozen: networks that are not copied.
        share: other things that are not copied.

    Raises:
        ValueError: it holds what cannot be copied.
    """

    def __init__(
        self, module: nn.Module, held: Collection[str], frozen: FrozenNetworks, share: Iterable[Any] = ()
    ) -> None:
        memo: dict[int, Any] = {id(thing): thing for thing in (*frozen.networks, *share)}
        try:
            self.module: nn.Module = copy.deepcopy(module, memo)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"module must be such that copy.deepcopy copies it, got {reason!r}; keep what it cannot copy elsewhere"
            ) from error
        self._held, self._frozen = held, frozen
        hand_on(module, self.module, held, memo)

    def twin(self) -> ModuleCopy:
        """Another one, with its own copy of everything but what never changes."""
        constants = [
            p for n, p in self.module.named_parameters() if n not in self._held and not p.requires_grad
        ]
        return ModuleCopy(self.module, self._held, self._frozen, constants)

    @property
    def device(self) -> torch.device:
        """Where its first trained parameter is."""
        parameters = dict(self.module.named_parameters())
        return next(parameters[name].device for name in self._held)

    def buffers(self) -> dict[str, Tensor]:
        """Its buffers as they are now, those of frozen networks left out."""
        return own_buffers(self.module, self._frozen)

    def put(self, state: State) -> None:
        """Give it the parameters and buffers of a state, and no gradients."""
        parameters, buffers = dict(self.module.named_parameters()), self.buffers()
        check_names("state.params", state.params, {name: parameters[name] for name in self._held})
        check_names("state.buffers", state.buffers, buffers)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.grad = None
                if name in state.params:
                    parameter.copy_(state.params[name])
            for name, buffer in buffers.items():
                buffer.copy_(state.buffers[name])
        self._before = versions(parameters)

    def take(self, state: State) -> tuple[Drift, dict[str, Tensor]]:
        """What a loss has left behind since the copy was put into a state.

        Returns:
            The drift; and the parameters that were written to, whose values may be what they were.

        Raises:
            ValueError: no parameter of the optimiser has a gradient.
        """
        parameters: dict[str, Tensor] = dict(self.module.named_parameters())
        # a parameter without a part in the loss has no gradient, and the optimiser passes over it
        found = ((name, parameters[name].grad) for name in self._held)
        grads = {name: grad for name, grad in found if grad is not None}
        for parameter in parameters.values():
            parameter.grad = None
        check_some(grads, state.step)
        after = self.buffers()
        check_names("buffers after the loss", after, state.buffers)
        writes = {n: BufferWrite(state.buffers[n], b.detach().clone()) for n, b in after.items()}
        wrote = {n: parameters[n] for n in written(self._before, versions(parameters))}
        return Drift(grads, writes=writes), wrote


class LossDrift:
    """Drifts of a loss, one at a time.

    Args:
        module: the user's, which is copied.
        held: names of the parameters that the optimiser moves.
        loss: at a step.
        seed: of what it draws.
        frozen: networks that copies of the module share.
        by_norm: whether the update needs the norm of all gradients together.
    """

    def __init__(
        self,
        module: nn.Module,
        held: Collection[str],
        loss: StepLoss,
        seed: int,
        frozen: FrozenNetworks,
        by_norm: bool,
    ) -> None:
        self.seed, self.frozen = seed, frozen
        self._user, self._loss, self._by_norm = module, loss, by_norm
        self.copy = ModuleCopy(module, held, frozen)
        """What drifts are evaluated on."""
        self.original = Original(module, self.copy.module, held)
        """The user's module, which a loss must leave alone."""

    def __call__(self, state: State) -> Drift:
        """The drift at a state.

        Raises:
            ValueError: the loss is no scalar with a gradient, uses another module than the one it is given, or writes
                to parameters.
        """
        self.copy.put(state)
        with self.original.aside(), self.frozen.watched(), seeded(self.seed, state.step, self.copy.device):
            self.scalar(self.copy, state.step).backward()
        return self.taken(self.copy, state)

    def again(self, state: State) -> Drift:
        """A drift once more, with a closer look at what the loss does."""
        with self.original.uncalled():
            drift = self(state)
        now = dict(self.copy.module.named_parameters())
        self.unwritten(state, {name: now[name] for name in state.params})
        return drift

    def scalar(self, copy: ModuleCopy, step: int) -> Tensor:
        """The loss on a copy that was put into a state of a step; the global generators are seeded."""
        loss = self._loss(copy.module, step)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            got = (
                f"shape {list(loss.shape)}" if isinstance(loss, Tensor) and loss.numel() != 1 else repr(loss)
            )
            raise ValueError(f"loss_fn must return a scalar with a gradient, got {got}; use its module")
        return loss

    def taken(self, copy: ModuleCopy, state: State) -> Drift:
        """What a loss has left on a copy that was put into a state, as a drift."""
        drift, wrote = copy.take(state)
        if wrote:  # some kernels write what was there
            self.unwritten(state, wrote)
        return self.clippable(drift)

    def clippable(self, drift: Drift) -> Drift:
        """A drift with the norm of its gradients, where the update clips by it."""
        return Drift(
            drift.grads, writes=drift.writes, grad_norm=norm_of(drift.grads) if self._by_norm else None
        )

    def unwritten(self, state: State, parameters: Mapping[str, Tensor]) -> None:
        """Raise where the loss has left a parameter with other values than it was given."""
        constants = {n: p for n, p in self._user.named_parameters() if n not in state.params}
        name = changed(parameters, {**constants, **state.params})
        if name is not None:
            raise ValueError(
                f"loss_fn must not write to parameters, wrote to {name!r}, which no drift carries; "
                "compute with the value that it would write, or keep it in a buffer"
            )


def own_buffers(module: nn.Module, frozen: FrozenNetworks) -> dict[str, Tensor]:
    """The buffers of a module, those of frozen networks left out."""
    return {name: buffer for name, buffer in module.named_buffers() if id(buffer) not in frozen.ids}


def check_some(grads: Mapping[str, Tensor], step: int) -> None:
    """Raise ``ValueError`` where there is no gradient at all."""
    if not grads:
        raise ValueError(
            f"loss_fn must give a parameter of the optimizer a gradient, got none at step {step}; "
            "use the module it is given"
        )
