"""One system that evaluates steps: whatever state it is given, it is put into first.

The order of things in a step is Lightning's: fetch the batch, ``on_train_batch_start``, ``training_step``,
``on_before_backward``, ``backward``, ``on_after_backward``, ``on_before_optimizer_step``, ``on_train_batch_end``.
The optimiser is not here: it runs in order, on what was accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dreamprop.adapters.purity import some
from dreamprop.adapters.torch_optimizer import norm_of
from dreamprop.rng import seeded
from dreamprop.state import BufferWrite, Drift, State, check_names
from dreamprop.threestudio.empty_renders import count_empty_renders
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.extra_state import ExtraState
from dreamprop.threestudio.hooks import call, owner, takes_index
from dreamprop.threestudio.precision import SCALE, StepSettings
from dreamprop.threestudio.replicate import replicate
from dreamprop.threestudio.step_data import StepData
from dreamprop.threestudio.trainer_proxy import TrainerProxy, attached

OVERFLOW = "overflow"
"""In aux: whether a gradient of a scaled loss was not finite; such a step is not taken."""
EMPTY = "empty_render"
"""In aux, where a render of the step had no samples, for whoever watches over a run."""
WRITTEN = (
    "a step must leave its parameters to the optimiser, got {} written by the step itself, which would be lost; run it "
    "in threestudio"
)
"""The words that a step which writes its parameters is refused with."""


class Replica:
    """A system that evaluates steps: it and its batches are put into a state, and a step is taken there.

    Args:
        system: built, in training mode, after ``on_fit_start``.
        loader: of the training data.
        names: of the parameters that are trained.
        settings: how a step is taken.
        seed: of the draws.
        proxy: what the system is to see as its trainer.
        first: the replica that this one is a copy of.
    """

    def __init__(
        self,
        system: Any,
        loader: Any,
        names: list[str],
        settings: StepSettings,
        seed: int,
        proxy: TrainerProxy,
        first: Replica | None = None,
    ) -> None:
        self.system, self.loader, self.proxy = system, loader, proxy
        self._names, self._settings, self._seed = names, settings, seed
        self._step_data: StepData = first._step_data if first else StepData(loader, settings.accumulate)
        self._empty = count_empty_renders()
        self._extra_state = ExtraState(system, [loader.dataset], first.carried if first else None)
        parameters = dict(system.named_parameters())
        self._held: dict[str, nn.Parameter] = {name: parameters[name] for name in names}
        self.untrained = {name: p for name, p in parameters.items() if name not in self._held}
        """The system's parameters that no optimiser holds, by name."""
        self.form: tuple[Any, ...] = ()
        """The shapes of the tensors in the last batch."""
        proxy.bind(system, self._held)
        self._indexed = takes_index(system.training_step)
        ending = owner(system, "on_train_batch_end")
        self._ends = ending is not None and ending.__module__ != "threestudio.systems.base"
        self.device = next(iter(self._held.values())).device
        kept = system.state_dict(keep_vars=True)
        self._buffers = [name for name, _ in system.named_buffers() if name in kept]

    def copy(self, networks: Sequence[nn.Module]) -> Replica:
        """Another one, with its own copy of everything but frozen networks and the data."""
        system = self.system
        before = getattr(system, "_trainer", None)
        system.trainer = None
        try:
            twin = replicate(system, networks, [self.loader.dataset])
        finally:
            system.trainer = before
        return Replica(twin, self.loader, self._names, self._settings, self._seed, self.proxy.copy(), self)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return list(self._held.values())

    @property
    def carried(self) -> set[str]:
        """Paths of the plain attributes that travel in the state."""
        return self._extra_state.names

    @property
    def attributes(self) -> set[str]:
        """Names of the buffers of a state that plain attributes travel in."""
        return self._extra_state.buffers

    @property
    def saved(self) -> set[str]:
        """Names of the buffers that travel in the state."""
        return set(self._buffers)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of the parameters and the buffers as they are now."""
        return {name: p.detach().clone() for name, p in self._held.items()}, self._read_buffers()

    def _read_buffers(self) -> dict[str, Tensor]:
        now = dict(self.system.named_buffers())  # some are assigned anew, never the same object
        return {name: now[name].detach().clone() for name in self._buffers} | self._extra_state.read()

    def write(self, state: State) -> None:
        """Put the system into a state."""
        check_names("state.params", state.params, self._held)
        now = dict(self.system.named_buffers())
        with torch.no_grad():
            for name, parameter in self._held.items():
                parameter.copy_(state.params[name])
            for name in self._buffers:
                now[name].copy_(state.buffers[name])
        self._extra_state.write(state.buffers)
        self.proxy.show(state.step)

    def evaluate(self, state: State, arrived: Mapping[str, Tensor] | None = None) -> Drift:
        """Gradients at a state, what the step did to buffers and to what is carried in attributes, and what it logged.

        Args:
            state: to evaluate.
            arrived: parameters behind the step; what Lightning calls after it sees these. By default it sees those in
                front of it, which are all that is known here.

        Raises:
            NotAChain: the step does what cannot be put back, or uses what is not known inside it.
        """
        try:
            return self._evaluate(state, arrived)
        except NotAChain as error:
            raise NotAChain(f"step {state.step}: {error}") from error

    def _evaluate(self, state: State, arrived: Mapping[str, Tensor] | None) -> Drift:
        system, settings = self.system, self._settings
        self.write(state)
        self._clear()
        stamps = self._stamps()
        logged: dict[str, Tensor] = {}
        grads: dict[str, Tensor] = {}
        aux: dict[str, Tensor] = {}
        norm: Tensor | None = None
        first, end = state.step * settings.accumulate, (state.step + 1) * settings.accumulate
        seen: dict[str, Tensor] = {}
        blank = self._empty.count
        with attached(system, self.proxy, logged, self.device):
            for index in range(first, end):
                with seeded(self._seed, index, self.device, "batch"):
                    batch = self._moved(self._step_data.at(index))
                self.form = tuple(
                    leaf.shape for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)
                )
                self.proxy.show(state.step)
                with seeded(self._seed, index, self.device, "step"):
                    if call(system, "on_train_batch_start", batch, index) == -1:
                        raise NotAChain(
                            "on_train_batch_start must let the epoch go on, got -1, which ends it; "
                            "run it in threestudio"
                        )
                    seen = seen or self._extra_state.read()
                    with settings.context():
                        output = system.training_step(*((batch, index) if self._indexed else (batch,)))
                    output = self._backward(output, state)
                    if index + 1 == end:
                        grads, aux, norm = self._gradients(state)
                        self._check(stamps)
                        if arrived is not None:
                            self._arrive(arrived)
                            stamps = self._stamps()
                    self.proxy.show((index + 1) // settings.accumulate)
                    call(system, "on_train_batch_end", output, batch, index)
        self._check(stamps)
        self._clear()
        if self._empty.count > blank:
            aux[EMPTY] = torch.ones(())
        left = self._read_buffers()
        writes = {n: BufferWrite(state.buffers[n], value, seen.get(n)) for n, value in left.items()}
        return Drift(grads, aux, writes, norm, logged)

    def _backward(self, output: Any, state: State) -> dict[str, Any]:
        """The gradients of a batch; returns what Lightning hands to ``on_train_batch_end``."""
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if loss is None:  # threestudio's way to skip a step
            return {}
        if not isinstance(loss, Tensor):
            raise NotAChain(f"training_step must return a loss, got {type(loss).__name__}; it cannot be run")
        loss = loss / self._settings.accumulate
        more = {k: v for k, v in output.items() if k != "loss"} if isinstance(output, Mapping) else {}
        known = {"loss": loss.detach().clone(), **more}
        if self._settings.scaling is not None:
            loss = loss * state.buffers[SCALE]  # a number on the CPU: no device waits for it
        call(self.system, "on_before_backward", loss)
        self.system.backward(loss) if hasattr(self.system, "backward") else loss.backward()
        call(self.system, "on_after_backward")
        return known

    def _gradients(self, state: State) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        """The gradients as the optimiser is to have them, whether they overflowed, and their norm.

        What a step does not need, since it scales no loss or clips by no norm, is left out.
        """
        aux: dict[str, Tensor] = {}
        if self._settings.scaling is not None:
            aux[OVERFLOW] = self._unscale(state.buffers[SCALE])
        call(self.system, "on_before_optimizer_step", self.proxy.optimizers[0])
        grads = {name: p.grad for name, p in self._held.items() if p.grad is not None}
        if OVERFLOW in aux:
            grads = {name: grad.masked_fill(aux[OVERFLOW].bool(), 0.0) for name, grad in grads.items()}
        norm = norm_of(grads) if self._settings.by_norm else None
        if self._ends:  # it may do with them as it likes
            grads = {name: grad.clone() for name, grad in grads.items()}
        return grads, aux, norm

    def _unscale(self, scale: Tensor) -> Tensor:
        """Make gradients of a scaled loss those of the loss; whether one of them overflowed.

        Nothing is read from a device here: the scale is on the CPU, and the answer where the gradients are.
        """
        inverse = scale.double().reciprocal().float()
        fine = [torch.ones((), dtype=torch.bool, device=self.device)]
        for parameter in self._held.values():
            if parameter.grad is not None:
                parameter.grad = parameter.grad * inverse
                fine.append(parameter.grad.isfinite().all())
        return (~torch.stack(fine).all()).float()

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """What changes when a parameter is written, without a look at its values."""
        return {name: (p._version, p.data_ptr()) for name, p in self._held.items()}

    def _check(self, stamps: Mapping[str, tuple[int, int]]) -> None:
        """See that the step has left the parameters to the optimiser.

        Raises:
            NotAChain: it has written some.
        """
        now = self._stamps()
        written = [name for name, stamp in stamps.items() if now[name] != stamp]
        if written:
            raise NotAChain(WRITTEN.format(some(written)))

    def _arrive(self, params: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._held.items():
                parameter.copy_(params[name])

    def _moved(self, batch: Any) -> Any:
        """A batch moved to the system's device, by the hooks that Lightning would call."""
        batch = self._settings.convert(batch)
        for hook, more in (
            ("on_before_batch_transfer", (0,)),
            ("transfer_batch_to_device", (self.device, 0)),
            ("on_after_batch_transfer", (0,)),
        ):
            data = self.proxy.datamodule
            brings = self.system if data is None or owner(data, hook) is None else data
            if hasattr(brings, hook):
                batch = getattr(brings, hook)(batch, *more)
        return batch

    def _clear(self) -> None:
        for parameter in (*self._held.values(), *self.untrained.values()):
            parameter.grad = None
