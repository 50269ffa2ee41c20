"""What the loop needs to know of a chain.

``z[t+1] = update(z[t], drift(z[t]))``: the drift is expensive and pure, the update is cheap and ordered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamprop.state import Drift, State, check_names


@dataclass(frozen=True)
class Group:
    """Parameters whose error is measured together, and the unit it is measured in."""

    names: tuple[str, ...]
    """Names of parameters; a floating-point buffer may be named too, to be measured in this group's unit."""
    step: float | None
    """Nominal step: the learning rate at that step. ``None``: the root mean square of what the update moved.
    ``inf``: these are left out of the error."""


@runtime_checkable
class Chain(Protocol):
    """The least that a chain must have; ``Process`` says what it may have besides."""

    @property
    def boundaries(self) -> Collection[int]:
        """t is in it when the state that enters step t has other shapes than the one that enters t - 1."""
        ...

    def init(self) -> State:
        """The state that enters step 0."""
        ...

    def drift(self, state: State) -> Drift:
        """The expensive part: a pure function of (params, buffers, step)."""
        ...

    def update(self, state: State, drift: Drift) -> State:
        """The cheap part: a new state with step + 1; writes nothing in place."""
        ...


class Process:
    """A chain of steps: ``init``, ``drift`` and ``update``, and defaults for everything else.

    An object that has these three and ``boundaries`` need not be a subclass: the loop takes whatever of the other
    methods it has, and these defaults for the rest (``as_process``).

    States that a drift sees carry parameters, buffers and the step; guesses carry no moments.
    """

    boundaries: Collection[int] = ()
    """t is in it when the state that enters step t has other shapes than the one that enters t - 1."""

    def init(self) -> State:
        """The state that enters step 0."""
        raise NotImplementedError(f"{type(self).__name__} must define init()")

    def drift(self, state: State) -> Drift:
        """The expensive part: a pure function of (params, buffers, step)."""
        raise NotImplementedError(f"{type(self).__name__} must define drift(state)")

    def update(self, state: State, drift: Drift) -> State:
        """The cheap part: a new state with step + 1; writes nothing in place."""
        raise NotImplementedError(f"{type(self).__name__} must define update(state, drift)")

    @property
    def fused(self) -> bool:
        """Whether ``drift_window`` is more than one drift after another, so that batches are worth while."""
        return type(self).drift_window is not Process.drift_window

    @property
    def predictive(self) -> bool:
        """Whether ``predict`` is more than a copy."""
        return type(self).predict is not Process.predict

    @property
    def known_sizes(self) -> bool:
        """Whether ``predict`` knows the shapes behind a boundary; by default where it is more than a copy."""
        return self.predictive

    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """The drifts of several states, [W] to [W], in one fused evaluation where the process has one."""
        return [self.drift(state) for state in states]

    def predict(self, state: State) -> State:
        """The next state guessed without a drift; by default a copy, the guess of arXiv:2311.17082."""
        return replace(state, step=state.step + 1)

    def groups(self, step: int) -> Mapping[str, Group]:
        """The parts of the error of the update made at a step, by label.

        By default none are named: all parameters are then one group, measured by what the update moved.
        """
        return {}

    def skip_update(self, state: State) -> State | None:
        """The next state with the update left out, as a gradient scaler leaves it out.

        By default the same state a step later, and ``None`` where shapes change: only the process knows how.
        """
        return None if state.step + 1 in self.boundaries else replace(state, step=state.step + 1)

    def buffer_distance(self, name: str, rolled_out: Tensor, guessed: Tensor) -> Tensor:
        """How far two buffers of a name differ, relative to their size; by default ``buffer_distance`` below."""
        return buffer_distance(rolled_out, guessed)

    def elementwise(self, step: int) -> bool:
        """Whether the update and the prediction into a step move every element of the parameters by its own gradient
        and moments alone, which layout ``sharded`` must know.

        Raises:
            ValueError: the process does not say, or no layout in pieces suits it.
        """
        raise ValueError(
            f"layout sharded must know which updates are elementwise, got {type(self).__name__} without "
            "elementwise(step); use layout replicated"
        )


OPTIONAL = ("drift_window", "predict", "groups", "skip_update", "buffer_distance", "elementwise")
"""Methods that a chain may leave to the defaults of ``Process``."""


class _Completed(Process):
    """A chain that is no subclass, with the defaults for what it does not have."""

    def __init__(self, chain: Any) -> None:
        self.chain = chain
        self.init, self.drift, self.update = chain.init, chain.drift, chain.update  # type: ignore[method-assign]
        own = {name: getattr(chain, name) for name in OPTIONAL if hasattr(chain, name)}
        self._fused, self._predictive = "drift_window" in own, "predict" in own
        if "elementwise" not in own:
            own["elementwise"] = lambda step: Process.elementwise(
                chain, step
            )  # which names the chain's class
        vars(self).update(own)

    @property
    def boundaries(self) -> Collection[int]:  # type: ignore[override]
        """The boundaries of the chain that is completed here."""
        found: Collection[int] = self.chain.boundaries
        return found

    @property
    def fused(self) -> bool:
        """Whether the chain has a ``drift_window`` of its own."""
        return self._fused

    @property
    def predictive(self) -> bool:
        """Whether the chain has a ``predict`` of its own."""
        return self._predictive

    def __getattr__(self, name: str) -> Any:
        """What else the chain has, for evaluators of a user's own."""
        return getattr(self.chain, name)


def as_process(chain: Chain | Process) -> Process:
    """A chain with everything that a process has: what it defines itself, and defaults for the rest."""
    return chain if isinstance(chain, Process) else _Completed(chain)


def buffer_distance(rolled_out: Tensor, guessed: Tensor) -> Tensor:
    """How far two buffers of one shape differ, relative to their size: a scalar on their device.

    * booleans: entries that differ, as a share of those that are set in either: of the occupied cells of a grid;
    * integers, and floats that hold whole numbers alone (a count, a mask): 0 if equal, else infinite;
    * other floats: ``||a - b|| / max(||a||, ||b||)``.
    """
    if rolled_out.dtype == torch.bool:
        return (rolled_out ^ guessed).sum() / (rolled_out | guessed).sum().clamp(min=1)
    same = rolled_out == guessed
    unequal = torch.where(same.all(), 0.0, torch.inf)
    if not (rolled_out.is_floating_point() or rolled_out.is_complex()):
        return unequal
    same |= rolled_out.isnan() & guessed.isnan()
    wide = torch.float32 if rolled_out.dtype.itemsize < 4 else None
    off = torch.linalg.vector_norm((rolled_out - guessed).masked_fill(same, 0), dtype=wide)
    size = torch.maximum(*(torch.linalg.vector_norm(t, dtype=wide) for t in (rolled_out, guessed)))
    relative = torch.where(off == 0, 0.0, off / size).float()
    if rolled_out.is_complex():
        return relative
    whole = (rolled_out == rolled_out.round()).all() & (guessed == guessed.round()).all()
    return torch.where(whole, unequal.to(relative.device), relative)


def groups(process: Process, state: State, step: int) -> Mapping[str, Group]:
    """The error groups of the update made at a step, checked against the names of a state.

    Raises:
        ValueError: a parameter is in no group, or a group names what the state does not have.
    """
    found = process.groups(step)
    if not found:
        return {"all": Group(tuple(state.params), None)}
    named = {name for group in found.values() for name in group.names}
    check_names(
        f"groups({step})", {n: n for n in named if n not in state.buffers or n in state.params}, state.params
    )
    return found


def group_of(process: Process, state: State, name: str) -> str:
    """The label of the group that a parameter belongs to."""
    found = groups(process, state, state.step)
    return next((label for label, group in found.items() if name in group.names), "all")
