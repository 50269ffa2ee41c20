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

from dreamprop.purity import differences, some
from dreamprop.state import State
from dreamprop.threestudio.parts import attributes, walk
from dreamprop.threestudio.system import Threestudio, untrained


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
        left = f"steps also write {some(self.changed)}" if self.changed else ""
        if self.pure:
            return f"a step is a function of its state{f'; {left}, to no effect' if left else ''}"
        cause = f"{left}, which cannot be put back" if left else "what it depends on was not found"
        return f"a step must give the same twice, got another {some(self.differs)}; {cause}: run it in threestudio"


def check(process: Threestudio, state: State, ahead: int = 8) -> Purity:
    """Evaluate the step of a state, a later one, and the first again.

    Both must agree as ``dreamprop.purity.differences`` has it: in every bit, or to the order of sums where that is
    not fixed.

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
    differs = differences(first, second)
    outside = set(untrained(process.system, process.names))
    if any(name in outside for name in changed):  # something trains itself
        return Purity(False, tuple(differs or [n for n in changed if n in outside]), tuple(changed))
    return Purity(not differs, tuple(differs), tuple(changed))


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
