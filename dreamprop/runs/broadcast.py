"""The window of the first process, sent to all."""

from typing import Any

import torch
from torch import Tensor

from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.flat_buffer import TensorSpec, num_bytes, pack, unpack
from dreamprop.solver.window import Window
from dreamprop.state import State

PARTS = ("params", "moments", "buffers")


def broadcast_window(communicator: Communicator, window: Window | None) -> Window | None:
    """The window that the first rank has, on all of them; each tensor on the kind of device that it has it on.

    Args:
        communicator: all ranks, which must ask together.
        window: of the first rank; ``None``: there is none. That of another rank is not looked at.
    """
    found = communicator.all_gather_object(
        _describe(window) if window is not None and communicator.rank == 0 else None
    )[0]
    if communicator.size == 1 or found is None:
        return window
    specs = [(where, TensorSpec.from_json(spec)) for *where, spec in found["tensors"]]
    mine = None
    if window is not None and communicator.rank == 0:
        mine = pack([tensor for *_, tensor in _tensors(window)], torch.device("cpu"))
    flat = communicator.broadcast(mine, num_bytes(spec for _, spec in specs))
    states: list[dict[str, dict[str, Tensor]]] = [{part: {} for part in PARTS} for _ in found["steps"]]
    trend: dict[str, Tensor] = {}
    for ((slot, part, name), _), tensor in zip(specs, unpack(flat, [s for _, s in specs]), strict=True):
        # in memory of its own: a block of all of them would be kept, and saved, for one
        (trend if slot is None else states[slot][part])[name] = tensor.clone()
    steps = zip(states, found["steps"], strict=True)
    return Window(tuple(State(**parts, step=step) for parts, step in steps), found["threshold"], trend)


def _describe(window: Window) -> dict[str, Any]:
    return {
        "threshold": window.threshold,
        "steps": [state.step for state in window.states],
        "tensors": [[*where, TensorSpec.of(tensor).to_json()] for *where, tensor in _tensors(window)],
    }


def _tensors(window: Window) -> list[tuple[int | None, str, str, Tensor]]:
    """All tensors with their slot, the part of the state, and their name; those of the trend without a slot."""
    found: list[tuple[int | None, str, str, Tensor]] = [
        (slot, part, name, tensor)
        for slot, state in enumerate(window.states)
        for part in PARTS
        for name, tensor in getattr(state, part).items()
    ]
    return found + [(None, "trend", name, tensor) for name, tensor in window.trend.items()]
