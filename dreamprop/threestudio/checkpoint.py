"""Lightning's checkpoints, as threestudio reads and writes them, and what a run adds to them to go on exactly.

Their format is a pickle. It is only ever read with PyTorch's restricted unpickler, which makes tensors, numbers
and containers and calls nothing. threestudio hands OmegaConf's lists to optimisers and schedulers, which keep
them, and with them the whole config; such a file is refused by plain threestudio, too, since PyTorch 2.6. Ours
are written with Python's own lists, so that both can go on from them.

What a run adds is one more entry, ``dreamprop``, of tensors, numbers and containers, which plain threestudio passes
over: the guesses that lie ahead of the state, where a moving threshold has come to, and what the system's parts
remember in plain attributes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import Container, OmegaConf
from torch import Tensor

from dreamprop.solver.window import Window
from dreamprop.state import State

ENTRY, FORMAT = "dreamprop", 1
PARTS = ("params", "moments", "buffers")


def status(path: Path | str) -> tuple[int, int]:
    """Epoch and step of a checkpoint, which Lightning does not restore outside ``fit``."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    return int(saved["epoch"]), int(saved["global_step"])


def plain(value: Any) -> Any:
    """A value with Python's own lists and dictionaries in the place of OmegaConf's."""
    if isinstance(value, Container):
        return plain(OmegaConf.to_container(value, resolve=True))
    if type(value) is dict:
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(inner) for inner in value)
    return value


def entry(reached: Window, made: Mapping[str, Any], attributes: Collection[str]) -> dict[str, Any]:
    """What a checkpoint of the accepted state needs besides, to go on as if the run had never stopped.

    Args:
        reached: states and threshold.
        made: the numbers that the system was made with.
        attributes: names of the buffers that plain attributes travel in, which Lightning does not save.
    """
    base, *ahead = reached.states
    return {
        "format": FORMAT,
        "step": base.step,
        "threshold": reached.threshold,
        "trend": _own(reached.trend),
        "made": dict(made),
        "attributes": _own({name: base.buffers[name] for name in base.buffers if name in attributes}),
        "ahead": [{part: _own(getattr(state, part)) for part in PARTS} for state in ahead],
    }


def restored(found: Any, base: State, made: Mapping[str, Any]) -> tuple[Window, str]:
    """What the run of a checkpoint goes on from: how far it had come.

    Args:
        found: its entry, if it has one.
        base: its state as Lightning has restored it.
        made: the numbers that the system is made with now.

    Returns:
        What to go on from; and why that is the state alone, if it is though there was more.
    """
    alone = Window((base,))
    if not isinstance(found, dict):
        return alone, ""
    try:
        if found["format"] != FORMAT or found["step"] != base.step:
            return alone, "they are of another step or format"
        other = [
            n for n in made.keys() | found["made"].keys() if not _alike(found["made"].get(n), made.get(n))
        ]
        if other:
            return alone, f"the system is made with another {min(other)} than it was"
        base = replace(base, buffers=base.buffers | _like(found["attributes"], base))
        states = [base]
        for saved in found["ahead"]:
            states.append(
                placed(State(**{part: saved[part] for part in PARTS}, step=states[-1].step + 1), base)
            )
        if any(_form(state) != _form(base) for state in states):
            return alone, "they are of other tensors"
        threshold, trend = found["threshold"], _like(found["trend"], base)
        return Window(tuple(states), None if threshold is None else float(threshold), trend), ""
    except (KeyError, TypeError, AttributeError, ValueError):
        return alone, "they are damaged"


def placed(state: State, base: State) -> State:
    """A state whose tensors are each on the device that another state has the tensor of that name on."""
    params, moments, buffers = (_like(getattr(state, part), base) for part in PARTS)
    return State(params, moments, buffers, state.step)


def _form(state: State) -> dict[str, Any]:
    return {name: (value.shape, value.dtype) for name, value in {**state.buffers, **state.params}.items()}


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies with memory of their own: what came from another process lies in one block, which would be saved whole."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b or a != a)


def _like(saved: Mapping[str, Tensor], base: State) -> dict[str, Tensor]:
    """Saved tensors, each on the device that a state has the tensor of that name on."""
    known = {**base.moments, **base.buffers, **base.params}
    device = next(iter(base.params.values())).device
    return {
        n: t.to(known[n].device if n in known else device if t.dim() else "cpu") for n, t in saved.items()
    }
