"""One system that evaluates steps: whatever state it is given, it is put into first.

The order of things in a step is Lightning's: fetch the batch, ``on_train_batch_start``, ``training_step``,
backward, ``on_train_batch_end``. The optimiser is not here: it runs in order, on what was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dreamprop.rng import seeded
from dreamprop.state import Drift, State, check_names
from dreamprop.stepper import norm_of
from dreamprop.threestudio.batches import Batches
from dreamprop.threestudio.copies import copied
from dreamprop.threestudio.parts import Carried
from dreamprop.threestudio.terms import SCALE, Terms
from dreamprop.threestudio.view import View

OVERFLOW = "overflow"
"""In aux: whether a gradient of a scaled loss was not finite; such a step is not taken."""
NORM = "norm"
"""In aux: the norm of all gradients together, where they are clipped by it."""
LOG = "log/"
"""In aux: what the system logged."""


class Replica:
    """A system, its batches, and how it is put into a state.

    Args:
        system: built, in training mode, after ``on_fit_start``.
        loader: of the training data.
        names: of the parameters that are trained.
        terms: how a step is taken.
        seed: of the draws.
        view: what the system is to see as its trainer.
        batches: those of another replica, which are the same.
    """

    def __init__(
        self,
        system: Any,
        loader: Any,
        names: list[str],
        terms: Terms,
        seed: int,
        view: View,
        batches: Batches | None = None,
    ) -> None:
        self.system, self.loader, self.view = system, loader, view
        self._names, self._terms, self._seed = names, terms, seed
        self._batches = batches or Batches(loader, terms.accumulate)
        self._carried = Carried(system, skip=[loader.dataset])
        parameters = dict(system.named_parameters())
        self._held: dict[str, nn.Parameter] = {name: parameters[name] for name in names}
        self._others = [p for name, p in parameters.items() if name not in self._held]
        self._device = next(iter(self._held.values())).device
        kept = system.state_dict(keep_vars=True)
        self._buffers = [name for name, _ in system.named_buffers() if name in kept]

    def copy(self, networks: Sequence[nn.Module]) -> Replica:
        """Another one, with its own copy of everything but frozen networks and the data."""
        system = self.system
        before = getattr(system, "_trainer", None)
        system.trainer = None
        try:
            twin = copied(system, networks, [self.loader.dataset])
        finally:
            system.trainer = before
        view = self.view.copy()
        return Replica(twin, self.loader, self._names, self._terms, self._seed, view, self._batches)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return list(self._held.values())

    @property
    def carried(self) -> set[str]:
        """Paths of the plain attributes that travel in the state."""
        return self._carried.names

    def read(self, before: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of the parameters and the buffers as they are now."""
        now = dict(self.system.named_buffers())  # some are assigned anew, never the same object
        buffers = {name: now[name].detach().clone() for name in self._buffers}
        return {name: p.detach().clone() for name, p in self._held.items()}, buffers | self._carried.read(
            before
        )

    def write(self, state: State) -> None:
        """Put the system into a state."""
        check_names("state.params", state.params, self._held)
        now = dict(self.system.named_buffers())
        with torch.no_grad():
            for name, parameter in self._held.items():
                parameter.copy_(state.params[name])
            for name in self._buffers:
                now[name].copy_(state.buffers[name])
        self._carried.write(state.buffers)
        self.view.global_step = state.step

    def evaluate(self, state: State) -> Drift:
        """Gradients at a state; in aux each buffer before, ``old/<name>``, and after, ``new/<name>``; of what is
        carried in attributes also ``seen/<name>``, what the training step found behind the update hooks."""
        system, terms = self.system, self._terms
        self.write(state)
        self._clear()
        logged: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}
        with self._attached(logged):
            for index in range(state.step * terms.accumulate, (state.step + 1) * terms.accumulate):
                with seeded(self._seed, index, self._device, "batch"):
                    batch = self._moved(self._batches.at(index))
                self.view.global_step = state.step
                with seeded(self._seed, index, self._device, "step"):
                    _optional(system, "on_train_batch_start", batch, index)
                    seen = seen or self._carried.read(state.buffers)
                    with terms.context():
                        output = system.training_step(batch, index)
                    self._backward(output, state)
                    self.view.global_step = (index + 1) // terms.accumulate
                    _optional(system, "on_train_batch_end", output, batch, index)
        grads = {name: p.grad for name, p in self._held.items() if p.grad is not None}
        self._clear()
        aux = {f"{LOG}{name}": value for name, value in logged.items()}
        if terms.scaling is not None:
            grads, aux[OVERFLOW] = _unscale(grads, state.buffers[SCALE])
        if terms.by_norm:
            aux[NORM] = norm_of(grads)
        after = self.read(state.buffers)[1]
        for name, value in after.items():
            aux[f"old/{name}"], aux[f"new/{name}"] = state.buffers[name], value
        return Drift(grads, aux | {f"seen/{name}": value for name, value in seen.items()})

    def _backward(self, output: Any, state: State) -> None:
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if loss is None:  # threestudio's way to skip a step
            return
        if not isinstance(loss, Tensor):
            raise ValueError(f"training_step must return a loss, got {type(loss).__name__}; it cannot be run")
        loss = loss / self._terms.accumulate
        if self._terms.scaling is not None:
            loss = loss * state.buffers[SCALE].to(loss.device)
        _optional(self.system, "on_before_backward", loss)
        self.system.backward(loss) if hasattr(self.system, "backward") else loss.backward()
        _optional(self.system, "on_after_backward")

    def _moved(self, batch: Any) -> Any:
        """A batch on the system's device."""
        batch, system = self._terms.convert(batch), self.system
        for hook, more in (
            ("on_before_batch_transfer", (0,)),
            ("transfer_batch_to_device", (self._device, 0)),
            ("on_after_batch_transfer", (0,)),
        ):
            if hasattr(system, hook):
                batch = getattr(system, hook)(batch, *more)
        return batch

    def _clear(self) -> None:
        for parameter in (*self._held.values(), *self._others):
            parameter.grad = None

    @contextmanager
    def _attached(self, logged: dict[str, Tensor]) -> Iterator[None]:
        """The system sees our view of the trainer, and what it logs is collected."""

        def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(value, Tensor) and value.numel() == 1:
                logged[name] = value.detach().float().reshape(())
            elif isinstance(value, (int, float)):
                logged[name] = torch.tensor(float(value), device=self._device)

        system = self.system
        before = getattr(system, "_trainer", None)
        system.trainer, system.log = self.view, log
        try:
            yield
        finally:
            del system.log
            system.trainer = before


def _optional(system: Any, hook: str, *args: Any) -> None:
    if hasattr(system, hook):
        getattr(system, hook)(*args)


def _unscale(grads: dict[str, Tensor], scale: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of the loss from those of the scaled loss; zeros, and a note, where they overflowed."""
    inverse = scale.double().reciprocal().float()
    grads = {name: grad * inverse.to(grad.device, grad.dtype) for name, grad in grads.items()}
    fine = all(bool(grad.isfinite().all()) for grad in grads.values())
    if not fine:
        grads = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    return grads, torch.tensor(float(not fine))
