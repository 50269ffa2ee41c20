"""The window of the first process, sent to all."""

from typing import Any

import torch
from torch import Tensor

from dreamprop.distributed import flat_buffer
from dreamprop.distributed.communicator import Communicator
from dreamprop.solver.window import Window
from dreamprop.state import State

PARTS = ("params", "moments", "buffers")


def broadcast_window(communicator: Communicator, window: Window | None) -> Window | None:
    """The window that the first rank has, on all of them; tensors on the CPU."""
    form = communicator.all_gather_object(
        _describe(window) if window is not None and communicator.rank == 0 else None
    )[0]
    if communicator.size == 1 or form is None:
        return window
    parts = [*(state[part] for state in form["states"] for part in PARTS), form["trend"]]
    shapes = [tensor for part in parts for tensor in flat_buffer.dtypes_and_shapes(part)]
    mine = flat_buffer.pack(_tensors(window), torch.device("cpu")) if window else None
    tensors = iter(flat_buffer.unpack(communicator.broadcast(mine, flat_buffer.num_bytes(shapes)), shapes))
    states = []
    for state in form["states"]:
        params, moments, buffers = (
            {name: next(tensors).clone() for name, *_ in state[part]} for part in PARTS
        )
        states.append(State(params, moments, buffers, state["step"]))
    trend = {name: next(tensors).clone() for name, *_ in form["trend"]}
    return Window(tuple(states), form["threshold"], trend)


def _describe(window: Window) -> dict[str, Any]:
    states = [
        {"step": s.step} | {part: flat_buffer.describe_tensors(getattr(s, part)) for part in PARTS}
        for s in window.states
    ]
    return {
        "threshold": window.threshold,
        "states": states,
        "trend": flat_buffer.describe_tensors(window.trend),
    }


def _tensors(window: Window) -> list[Tensor]:
    parts = [*(getattr(state, part) for state in window.states for part in PARTS), window.trend]
    return [tensor for part in parts for tensor in part.values()]
