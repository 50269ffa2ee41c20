"""A chain whose states lie in pieces: every process keeps a part of each parameter and of its moments.

The rollout and the error look at every element alone, so each rank can do them for its own part of all steps: time
is exchanged for parameters. What is cut is the list of all parameters' elements, in pieces that elementwise work
uses anyway, so that each piece goes through the same operations wherever it lies; the parts differ by a piece at
most. Tensors without a dimension, and buffers, are kept by every rank.

Legend: R ranks, N elements of all parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dreamprop.distributed import flat_buffer
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.flat_buffer import TensorSpec
from dreamprop.optim.moments import MomentKey
from dreamprop.process import Group, Process
from dreamprop.state import Drift, State
from dreamprop.utils.foreach import piece_size

Span = tuple[int, int]


@dataclass(frozen=True)
class ShardSpec:
    """Which elements of every parameter belong to which rank."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Parameters by name, in order, with their whole shapes."""
    ranks: int
    """R, the processes that share the parameters."""
    piece: int
    """Elements that are never cut apart."""

    @cached_property
    def spans(self) -> dict[str, list[Span]]:
        """By parameter the elements [R] from and to, in its flat order."""
        counts = {name: torch.Size(shape).numel() for name, shape in self.shapes if shape}
        pieces = {name: -(-n // self.piece) for name, n in counts.items()}
        total = sum(pieces.values())
        ends = [total * r // self.ranks for r in range(self.ranks + 1)]
        spans: dict[str, list[Span]] = {
            name: [(0, 1)] * self.ranks for name, shape in self.shapes if not shape
        }
        first = 0
        for name, count in counts.items():
            cuts = [min(max(end - first, 0), pieces[name]) * self.piece for end in ends]
            spans[name] = [(min(a, count), min(b, count)) for a, b in pairwise(cuts)]
            first += pieces[name]
        return {name: spans[name] for name, _ in self.shapes}

    def part(self, name: str, tensor: Tensor, rank: int) -> Tensor:
        """The elements of a whole tensor that a rank keeps, flat; shares memory with it."""
        if not tensor.ndim:
            return tensor.detach()
        a, b = self.spans[name][rank]
        return tensor.detach().reshape(-1)[a:b]

    def owner_of(self, moment: str) -> str | None:
        """The parameter that a moment belongs to; ``None`` where it is the optimiser's as a whole."""
        parameter = MomentKey.parse(moment).parameter
        return parameter if parameter in self.spans else None


@dataclass(frozen=True, eq=False)
class ShardedState(State):
    """A state of which parameters and moments are here in part, flat."""

    plan: ShardSpec


class ShardedProcess(Process):
    """A process around another, over states in pieces.

    Args:
        process: must say by ``elementwise(step)`` whether the update (and the prediction) into a step moves every
            element by its own gradient and moments alone; the others are done on whole tensors by every rank.
        communicator: the processes that share the work.

    Raises:
        ValueError: the process does not say so, or no layout in pieces suits it.
    """

    def __init__(self, process: Process, communicator: Communicator) -> None:
        process.elementwise(0)  # refuses what no layout in pieces suits
        self.process, self.communicator = process, communicator

    @property
    def boundaries(self) -> Collection[int]:  # type: ignore[override]
        """The boundaries of the process that is in pieces here."""
        return self.process.boundaries

    def init(self) -> State:
        """This rank's part of the first state."""
        return self.shard(self.process.init())

    def drift(self, state: State) -> Drift:
        """A drift needs the whole state: the evaluator brings it together."""
        raise NotImplementedError("drifts of states in pieces are evaluated by the distributed evaluator")

    def update(self, state: State, drift: Drift) -> State:
        """One step, on this rank's part where that can be."""
        if self.process.elementwise(state.step + 1):
            return self._stamped(state, self.process.update(state, drift))
        plan = _plan(state)
        whole = replace(drift, grads=self._together(plan, drift.grads))
        return self.shard(self.process.update(self.unshard(state), whole))

    def predict(self, state: State) -> State:
        """The next state guessed without a drift, on this rank's part where that can be."""
        if self.process.elementwise(state.step + 1):
            return self._stamped(state, self.process.predict(state))
        return self.shard(self.process.predict(self.unshard(state)))

    def skip_update(self, state: State) -> State | None:
        """This rank's part of the next state with the update left out."""
        passed = self.process.skip_update(self.unshard(state))
        return None if passed is None else self.shard(passed)

    def groups(self, step: int) -> Mapping[str, Group]:
        """The error groups of the process that is in pieces here."""
        return self.process.groups(step)

    def buffer_distance(self, name: str, rolled_out: Tensor, guessed: Tensor) -> Tensor:
        """How far two buffers differ, as the process measures it: buffers are whole on every rank."""
        return self.process.buffer_distance(name, rolled_out, guessed)

    def elementwise(self, step: int) -> bool:
        """Whether the update into a step can be done on parts, as the process says."""
        return self.process.elementwise(step)

    def shard(self, state: State) -> State:
        """This rank's part of a whole state, in memory of its own."""
        shapes = tuple((name, tuple(p.shape)) for name, p in state.params.items())
        plan = ShardSpec(shapes, self.communicator.size, piece_size())
        rank = self.communicator.rank
        params = {n: plan.part(n, p, rank).clone() for n, p in state.params.items()}
        moments = {}
        for name, moment in state.moments.items():
            owner = plan.owner_of(name)
            if moment.ndim == 0:
                moments[name] = moment.clone()
            elif owner is not None and moment.shape == state.params[owner].shape:
                moments[name] = plan.part(owner, moment, rank).clone()
            else:
                raise ValueError(
                    f"moments must have the shape of their parameter in layout sharded, got {tuple(moment.shape)} "
                    f"for {name!r}; use layout replicated"
                )
        return ShardedState(params, moments, dict(state.buffers), state.step, plan)

    def unshard(self, state: State) -> State:
        """The whole state, on every rank; all ranks must ask for it together."""
        plan = _plan(state)
        cut = {name: plan.owner_of(name) for name, moment in state.moments.items() if moment.ndim}
        named = {f"param {n}": (n, t) for n, t in state.params.items()}
        named |= {f"moment {n}": (str(owner), state.moments[n]) for n, owner in cut.items()}
        found = self._join(plan, named)
        params = {n: found[f"param {n}"] for n in state.params}
        moments = {n: found[f"moment {n}"] if n in cut else t for n, t in state.moments.items()}
        return State(params, moments, dict(state.buffers), state.step)

    def counts(self, state: State, name: str) -> bool:
        """Whether this rank adds a tensor to a sum: its part of a cut one; the first rank what all of them keep."""
        return self.communicator.rank == 0 or bool(dict(_plan(state).shapes).get(name))

    def numel(self, state: State, name: str) -> int:
        """Elements of the whole tensor."""
        shapes = dict(_plan(state).shapes)
        return torch.Size(shapes[name]).numel() if name in shapes else state.buffers[name].numel()

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all ranks, those of the first rank first."""
        return [row for gathered in self.communicator.all_gather_object(rows) for row in gathered]

    def _together(self, plan: ShardSpec, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors from this rank's parts of parameters or their gradients."""
        return self._join(plan, {n: (n, t) for n, t in parts.items()})

    def _join(self, plan: ShardSpec, named: Mapping[str, tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Whole tensors from parts; ``named`` gives with each part the parameter that it is cut like."""
        shapes = dict(plan.shapes)
        split = {key: (owner, t) for key, (owner, t) in named.items() if shapes[owner]}
        joined = {key: t for key, (owner, t) in named.items() if not shapes[owner]}
        if not split:
            return joined
        device = next(iter(split.values()))[1].device
        mine = flat_buffer.pack([t for _, t in split.values()], device)
        forms = [
            [
                TensorSpec(t.dtype, (b - a,), t.device.type)
                for owner, t in split.values()
                for a, b in [plan.spans[owner][r]]
            ]
            for r in range(plan.ranks)
        ]
        come = self.communicator.all_to_all(
            [mine] * plan.ranks, [flat_buffer.num_bytes(form) for form in forms]
        )
        parts = [flat_buffer.unpack(p, form) for p, form in zip(come, forms, strict=True)]
        for i, (key, (owner, _)) in enumerate(split.items()):
            joined[key] = torch.cat([part[i] for part in parts]).view(shapes[owner])
        return {key: joined[key] for key in named}

    def _stamped(self, before: State, after: State) -> State:
        """A state that an elementwise update has made of a part, cut as the one before."""
        return ShardedState(after.params, after.moments, after.buffers, after.step, _plan(before))


def _plan(state: State) -> ShardSpec:
    assert isinstance(state, ShardedState), "a state of this chain is in pieces"
    return state.plan
