"""Whether a step is a function of its state: evaluate t, then t + k, then t again.

Systems may remember things where nobody can see them. What a step leaves behind in the state does no harm, since
the state is put back; what it leaves anywhere else must at least not change the step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dreamprop.state import Drift, State
from dreamprop.threestudio.parts import attributes, walk
from dreamprop.threestudio.system import Threestudio, untrained

GPU_TOLERANCE = 1e-2
"""Relative difference of two evaluations on a GPU, whose sums come in any order."""


@dataclass(frozen=True)
class Purity:
    """What the check found."""

    pure: bool
    """Whether the same step gave the same twice."""
    differs: tuple[str, ...]
    """Gradients and buffers that came out different, the worst first."""
    changed: tuple[str, ...]
    """What steps changed that is neither a parameter, nor a buffer, nor carried in the state."""

    def line(self) -> str:
        """What a user should know."""
        left = f"steps also write {_some(self.changed)}" if self.changed else ""
        if self.pure:
            return f"a step is a function of its state{f'; {left}, to no effect' if left else ''}"
        cause = f"{left}, which cannot be put back" if left else "what it depends on was not found"
        return f"a step must give the same twice, got another {_some(self.differs)}; {cause}: run it in threestudio"


def check(process: Threestudio, state: State, ahead: int = 8) -> Purity:
    """Evaluate the step of a state, a later one, and the first again.

    On a CPU both must agree in every bit, on a GPU to the order of its sums.

    Args:
        process: the chain.
        state: where the run begins.
        ahead: how much later the step in between is.

    Returns:
        What was found; nothing is raised.
    """
    before = _remembered(process)
    first = process.drift(state)
    process.drift(replace(state, step=state.step + ahead))
    second = process.drift(state)
    after = _remembered(process)
    process.commit(state)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    differs = _differences(first, second)
    outside = set(untrained(process.system, process.names))
    if any(name in outside for name in changed):  # something trains itself
        return Purity(False, tuple(differs or [n for n in changed if n in outside]), tuple(changed))
    return Purity(not differs, tuple(differs), tuple(changed))


def _differences(first: Drift, second: Drift) -> list[str]:
    """Names of what differs, the worst first."""
    found: list[tuple[float, str]] = []
    for ours, theirs in ((first.grads, second.grads), (_new(first), _new(second))):
        for name in ours.keys() | theirs.keys():
            if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
                found.append((float("inf"), name))
                continue
            a, b = ours[name], theirs[name]
            if torch.equal(a, b):
                continue
            off = float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-30))
            if a.device.type == "cpu" or not off <= GPU_TOLERANCE:
                found.append((off, name))
    return [name for _, name in sorted(found, reverse=True)]


def _new(drift: Drift) -> dict[str, Tensor]:
    return {name: value for name, value in drift.aux.items() if name.startswith("new/")}


def _remembered(process: Threestudio) -> dict[str, str]:
    """Digests of everything that the parts of a system hold outside the state."""
    system, carried = process.system, process.replica.carried
    found: dict[str, str] = {}
    for path, part in walk(system, skip=[process.replica.loader.dataset]):
        for name, value in attributes(part):
            full = f"{path}.{name}" if path else name
            if full not in carried:
                found[full] = _digest(value)
    named = dict(system.named_parameters())
    for name in untrained(system, process.names):
        found[name] = _digest(named[name])
    return found


def _digest(value: Any, depth: int = 4) -> str:
    """A word that changes with a value; what is behind an object's own attributes is not looked at."""
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            return "meta"
        data = value.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
        return f"{tuple(value.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"
    if isinstance(value, dict) and depth:
        return "{" + ", ".join(f"{k}: {_digest(v, depth - 1)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)) and depth:
        return "[" + ", ".join(_digest(v, depth - 1) for v in value) + "]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return type(value).__name__


def _some(names: tuple[str, ...], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name.removeprefix("new/") for name in names[:most]) + more
