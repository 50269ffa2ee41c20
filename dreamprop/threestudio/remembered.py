"""Look at what the parts of a system hold: by value, to tell what has changed, and in outline, to tell that something
has."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamprop.threestudio.extra_state import attributes, walk
from dreamprop.threestudio.replica import Replica


def outside(replica: Replica) -> dict[str, str]:
    """Digests of what a system holds outside its state, by path.

    Attributes that do not travel, buffers that are not saved, and parameters that no optimiser holds.
    """
    system = replica.system
    found: dict[str, str] = {}
    for path, part in walk(system, skip=[replica.loader.dataset]):
        for name, value in attributes(part):
            full = f"{path}.{name}" if path else name
            if full not in replica.carried:
                found[full] = digest(value)
    found |= {name: digest(buffer) for name, buffer in system.named_buffers() if name not in replica.saved}
    return found | {name: digest(parameter) for name, parameter in replica.untrained.items()}


def outline(replica: Replica) -> dict[str, Any]:
    """What can be told of a system's parts without looking into tensors, by path: numbers, lengths and shapes."""
    found: dict[str, Any] = {"batch": replica.form}
    for path, part in walk(replica.system, skip=[replica.loader.dataset]):
        for name, value in attributes(part):
            found[f"{path}.{name}" if path else name] = _outline(value)
    return found


def digest(value: Any, depth: int = 4) -> str:
    """A word that changes with a value; what is behind an object's own attributes is not looked at."""
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            return "meta"
        data = value.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
        return f"{tuple(value.shape)} {_word(data.tobytes())}"
    if isinstance(value, Mapping) and depth:
        return "{" + ", ".join(f"{k}: {digest(v, depth - 1)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return "[" + ", ".join(digest(v, depth - 1) for v in value) + "]"
    if isinstance(value, np.ndarray):
        return f"{value.shape} {_word(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, torch.Generator):
        return digest(value.get_state())
    if isinstance(value, random.Random):
        return _word(repr(value.getstate()).encode())
    if isinstance(value, np.random.Generator):
        return _word(repr(value.bit_generator.state).encode())
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return type(value).__name__


def _outline(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple | dict | set):
        return type(value).__name__, len(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__


def _word(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
