"""What ranks send each other in a round: states to those who evaluate them, drifts to those who roll them out.

Every rank holds the guesses' buffers, and with layout ``replicated`` all of the guesses. So states travel with layout
``sharded`` alone, and of a drift only what the guess it was evaluated at does not have already.

Legend: R ranks, W steps of the window, N elements of all parameters; a slot is one step of the window.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, cat

from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.flat_buffer import TensorSpec, num_bytes, pack, unpack
from dreamprop.distributed.sharding import ShardedState, ShardSpec
from dreamprop.state import Drift, State, TensorPath
from dreamprop.utils import cpu_allocator

DriftSpec = dict[TensorPath, TensorSpec]
"""What is sent of a drift, in order: where each tensor stands in it, and what must be known of it."""
Slots = Sequence[Sequence[int]]
"""The slots of the window that each rank evaluates."""


def describe(drift: Drift, state: State) -> DriftSpec:
    """What is sent of a drift of a state."""
    return {path: TensorSpec.of(tensor) for path, tensor in _sent(drift, state).items()}


def to_json(spec: DriftSpec) -> list[Any]:
    """A value that JSON can hold."""
    return [[list(path), *tensor.to_json()] for path, tensor in spec.items()]


def from_json(value: Sequence[Any]) -> DriftSpec:
    """What ``to_json`` made this value of."""
    return {tuple(path): TensorSpec.from_json(tensor) for path, *tensor in value}


def digest(spec: DriftSpec) -> int:
    """63 bits that stand for a description, so that one that is known need not be sent again."""
    return int.from_bytes(hashlib.sha256(json.dumps(to_json(spec)).encode()).digest()[:8], "big") >> 1


def bring(communicator: Communicator, states: Sequence[State], slots: Slots) -> list[State]:
    """The whole states of this rank's slots: from "all steps, my parameters" to "my steps, all parameters".

    Args:
        communicator: the R ranks.
        states: [W] as this rank keeps them: whole, or its part of each.
        slots: [R] of each rank.

    Returns:
        The states of this rank's slots, without moments where they were in pieces.
    """
    mine, first = slots[communicator.rank], states[0]
    if not isinstance(first, ShardedState):
        return [states[i] for i in mine]
    shard = first.plan
    shapes = {name: shape for name, shape in shard.shapes if shape}  # what has no dimension is here already
    device = _device(first)
    out = [pack([states[i].params[name] for i in places for name in shapes], device) for places in slots]
    specs = [
        [_cut(TensorSpec.of(first.params[name]), shard, name, rank) for _ in mine for name in shapes]
        for rank in range(shard.ranks)
    ]
    blocks = communicator.all_to_all(out, [num_bytes(row) for row in specs])
    pieces = [iter(unpack(block, row)) for block, row in zip(blocks, specs, strict=True)]
    found = []
    for i in mine:
        whole = {name: cat([next(piece) for piece in pieces]).view(shapes[name]) for name in shapes}
        params = {name: whole.get(name, p) for name, p in states[i].params.items()}
        found.append(State(params, {}, states[i].buffers, states[i].step))
    return found


def share(
    communicator: Communicator,
    states: Sequence[State],
    drifts: Sequence[Drift],
    specs: Sequence[Sequence[DriftSpec]],
    slots: Slots,
) -> list[Drift]:
    """The drifts of all slots: whole, or from "my steps, all parameters" to "all steps, my parameters".

    Args:
        communicator: the R ranks.
        states: [W] as this rank keeps them.
        drifts: of this rank's slots.
        specs: [R] what each rank sends, a drift for each of its slots.
        slots: [R] of each rank.

    Returns:
        [W] drifts, their gradients cut as the states' parameters are, each tensor on the kind of device that it was on.
    """
    rank, base = communicator.rank, states[0]
    shard = base.plan if isinstance(base, ShardedState) else None
    coming = [[_kept(spec, shard, rank) for spec in row] for row in specs]
    sizes = [sum(num_bytes(spec.values()) for spec in row) for row in coming]
    sent = [_sent(drift, states[i]) for drift, i in zip(drifts, slots[rank], strict=True)]
    if shard is None:
        blocks = _gather(
            communicator, pack([t for tensors in sent for t in tensors.values()], _device(base)), sizes
        )
    else:
        out = [
            pack([t for tensors in sent for t in _part(tensors, shard, receiver)], _device(base))
            for receiver in range(communicator.size)
        ]
        blocks = communicator.all_to_all(out, sizes)
    found: dict[int, Drift] = {}
    for block, row, places in zip(blocks, coming, slots, strict=True):
        tensors = iter(unpack(block, [tensor for spec in row for tensor in spec.values()]))
        for spec, i in zip(row, places, strict=True):
            found[i] = _received({path: next(tensors) for path in spec}, states[i])
    if shard is None:  # its own are here, without a copy
        found.update(zip(slots[rank], drifts, strict=True))
    return [found[i] for i in range(len(states))]


def _gather(communicator: Communicator, mine: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The bytes of all ranks, of different lengths."""
    if mine.device.type == "cpu":  # several times faster over gloo than its all-gather is
        return communicator.all_to_all([mine] * communicator.size, sizes)
    padded = cpu_allocator.empty(max(sizes), mine.device)
    padded[: mine.numel()] = mine
    return [block[:size] for block, size in zip(communicator.all_gather(padded), sizes, strict=True)]


def _sent(drift: Drift, state: State) -> dict[TensorPath, Tensor]:
    """The tensors of a drift but for the buffers of the state that it was evaluated at, which every rank holds."""
    found = drift.tensors()
    for name, write in drift.writes.items():
        if write.old is state.buffers.get(name):
            del found["writes", name, "old"]
    return found


def _received(tensors: Mapping[TensorPath, Tensor], state: State) -> Drift:
    """A drift from what was sent of it and the state that it was evaluated at."""
    written = {path[1] for path in tensors if path[0] == "writes"}
    olds: dict[TensorPath, Tensor] = {
        ("writes", name, "old"): state.buffers[name] for name in written if name in state.buffers
    }
    return Drift.from_tensors({**olds, **tensors})


def _part(tensors: Mapping[TensorPath, Tensor], shard: ShardSpec, rank: int) -> list[Tensor]:
    """What a rank is to have of a drift whose gradients are cut."""
    return [shard.part(path[1], t, rank) if path[0] == "grads" else t for path, t in tensors.items()]


def _kept(spec: DriftSpec, shard: ShardSpec | None, rank: int) -> DriftSpec:
    """What a rank is to have of a drift: its part of the gradients where they are cut, else all."""
    if shard is None:
        return spec
    return {path: _cut(t, shard, path[1], rank) if path[0] == "grads" else t for path, t in spec.items()}


def _cut(spec: TensorSpec, shard: ShardSpec, name: str, rank: int) -> TensorSpec:
    """A parameter's, or its gradient's, where a rank keeps its part of it."""
    if not spec.shape:
        return spec
    first, end = shard.spans[name][rank]
    return TensorSpec(spec.dtype, (end - first,), spec.device)


def _device(state: State) -> Any:
    """Where the ranks' exchange takes place: the device of the parameters."""
    return next(iter(state.params.values())).device
