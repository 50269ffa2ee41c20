"""What the loop needs to know of a chain.

``z[t+1] = update(z[t], drift(z[t]))``: the drift is expensive and pure, the update is cheap and ordered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
class Process(Protocol):
    """A chain of steps.

    Optional methods, used where a process has them:

    * ``drift_window(states) -> list[Drift]``: one fused evaluation of several states.
    * ``predict(state) -> State``: the next state guessed without a drift; without it the guess is a copy.
    * ``groups(step) -> Mapping[str, Group]``: the parts of the error; without it all parameters are one group
      measured by what the update moved.
    * ``skip_update(state) -> State``: the next state with the update left out; without it a copy a step later.
    * ``buffer_distance(name, rolled_out, guessed) -> Tensor``: how far two buffers differ, relative to their size;
      without it by the kind of their type, see ``dreamprop.solver.buffers.distance``.
    * ``elementwise(step) -> bool``: whether the update (and the prediction) into a step moves every element of the
      parameters by its own gradient and moments alone; what layout ``sharded`` must know.

    States that a drift sees carry parameters, buffers and the step; guesses carry no moments.
    """

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


def groups(process: Process, state: State, step: int) -> Mapping[str, Group]:
    """The error groups of the update made at a step, checked against the names of a state.

    Raises:
        ValueError: a parameter is in no group, or a group names what the state does not have.
    """
    if not hasattr(process, "groups"):
        return {"all": Group(tuple(state.params), None)}
    found: Mapping[str, Group] = process.groups(step)
    named = {name for group in found.values() for name in group.names}
    check_names(
        f"groups({step})", {n: n for n in named if n not in state.buffers or n in state.params}, state.params
    )
    return found


def group_of(process: Process, state: State, name: str) -> str:
    """The name of the group that a parameter belongs to."""
    found = groups(process, state, state.step)
    return next((label for label, group in found.items() if name in group.names), "all")
