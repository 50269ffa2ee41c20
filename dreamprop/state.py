"""The two values that travel through the loop: a state of the chain and the drift evaluated at it.

Both are frozen dataclasses of named tensors. Nothing that holds one may write into its tensors: a later
part of the same round may still need them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """Everything the chain ``z[t+1] = update(z[t], drift(z[t]))`` carries from one step to the next.

    A drift is a pure function of (params, buffers, step); only an update reads the moments.
    """

    params: dict[str, Tensor]
    """What the optimiser moves, by name."""
    moments: dict[str, Tensor]
    """What the optimiser remembers, by ``<parameter>/<moment>``."""
    buffers: dict[str, Tensor]
    """What else the next step reads: an occupancy grid, running statistics, counters."""
    step: int
    """The step this state enters; 0 at the start."""


@dataclass(frozen=True, eq=False)
class BufferWrite:
    """What the evaluation of a drift did to one buffer, for the update to do to the accepted one."""

    old: Tensor
    """The buffer of the state that the drift was evaluated at; every process holds it with its guesses."""
    new: Tensor
    """The buffer as the evaluation left it."""
    read: Tensor | None = None
    """The buffer as the evaluation read it, where a schedule, a function of the step alone, had set it before;
    ``None`` where it read ``old``."""


TensorPath = tuple[str, ...]
"""Where a tensor stands in a drift: its field, its name there, and its field in a ``BufferWrite``."""


@dataclass(frozen=True, eq=False)
class Drift:
    """What one expensive evaluation yields: gradients, and what else the update needs."""

    grads: dict[str, Tensor]
    """Gradients, by parameter name."""
    aux: dict[str, Tensor] = field(default_factory=dict)
    """What else the update needs, under names that the process chooses."""
    writes: dict[str, BufferWrite] = field(default_factory=dict)
    """What the evaluation did to buffers, by their name."""
    grad_norm: Tensor | None = None
    """Norm of all gradients together, a scalar, for an update that clips by it: a process that holds a part of the
    gradients cannot take it from them."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Scalars to log, by name."""

    def tensors(self) -> dict[TensorPath, Tensor]:
        """All tensors, gradients first, by where they stand."""
        found: dict[TensorPath, Tensor] = {("grads", name): grad for name, grad in self.grads.items()}
        found |= {("aux", name): value for name, value in self.aux.items()}
        for name, write in self.writes.items():
            found[("writes", name, "old")], found[("writes", name, "new")] = write.old, write.new
            if write.read is not None:
                found[("writes", name, "read")] = write.read
        if self.grad_norm is not None:
            found[("grad_norm",)] = self.grad_norm
        return found | {("metrics", name): value for name, value in self.metrics.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[TensorPath, Tensor]) -> Drift:
        """The drift whose ``tensors()`` these are, in any order."""
        fields: dict[str, dict[str, Tensor]] = {"grads": {}, "aux": {}, "metrics": {}}
        writes: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            match path:
                case ("writes", name, part):
                    writes.setdefault(name, {})[part] = tensor
                case (kind, name):
                    fields[kind][name] = tensor
        return cls(
            **fields,
            writes={name: BufferWrite(**parts) for name, parts in writes.items()},
            grad_norm=tensors.get(("grad_norm",)),
        )


def clone(state: State) -> State:
    """A state that shares no memory with this one."""
    parts = (state.params, state.moments, state.buffers)
    params, moments, buffers = ({name: t.detach().clone() for name, t in part.items()} for part in parts)
    return State(params, moments, buffers, state.step)


def to(state: State, device: torch.device | str) -> State:
    """The same state on another device; tensors that are there already are shared."""
    parts = (state.params, state.moments, state.buffers)
    params, moments, buffers = ({name: t.to(device) for name, t in part.items()} for part in parts)
    return State(params, moments, buffers, state.step)


def equal(a: State, b: State) -> bool:
    """Whether two states are the same: step, names, shapes, types and every value (``torch.equal``)."""
    parts = ((a.params, b.params), (a.moments, b.moments), (a.buffers, b.buffers))
    return a.step == b.step and all(
        x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and torch.equal(x[n], y[n]) for n in x)
        for x, y in parts
    )


def check_names(what: str, got: Collection[str], expected: Collection[str]) -> None:
    """Parameters travel by name: a missing or an extra one is an error, never a shorter zip.

    Raises:
        ValueError: naming the first few that are missing or extra.
    """
    if isinstance(got, Mapping) and isinstance(expected, Mapping) and got.keys() == expected.keys():
        return
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing:
        raise ValueError(
            f"{what} must name every tensor, missing {', '.join(missing[:5])}; add {len(missing)} name(s)"
        )
    if extra:
        raise ValueError(
            f"{what} must name no other tensor, got {', '.join(extra[:5])}; drop {len(extra)} name(s)"
        )


def check_shapes(before: State, after: State) -> None:
    """Shapes change at boundaries only.

    Raises:
        ValueError: parameters or buffers of the two states differ in names or shapes.
    """
    for kind in ("params", "buffers"):
        old: dict[str, Tensor] = getattr(before, kind)
        new: dict[str, Tensor] = getattr(after, kind)
        check_names(f"{kind} entering step {after.step}", new, old)
        for name, tensor in new.items():
            if tensor.shape != old[name].shape:
                raise ValueError(
                    f"shape of {name} must not change at step {after.step}, no boundary, "
                    f"got {tuple(old[name].shape)} then {tuple(tensor.shape)}; add {after.step} to boundaries"
                )
