"""Whether a step is a function of its state: at the start of a run, and again where something may have woken.

Systems may remember things where nobody can see them. What a step leaves behind in the state does no harm, since
the state is put back; what it leaves anywhere else must at least not change the step.

Two looks. At the start: evaluate t, then t + k, then t again. And at any time: evaluate t on the system that has
taken all the steps, and on a copy made before the first, a witness that has taken part in these looks alone. If
the step is a function of its state, the two agree; what they disagree about is memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dreamprop.adapters.purity import GPU_TOLERANCE, compared, some
from dreamprop.state import Drift, State
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.extra_state import walk
from dreamprop.threestudio.hooks import owner
from dreamprop.threestudio.remembered import outline, outside
from dreamprop.threestudio.replica import WRITTEN, Replica
from dreamprop.threestudio.system import Threestudio

NOISE = 4.0
"""How many times farther apart than two evaluations that nothing came between those may be on a GPU that are looked at
later in a run."""
WAKING = 64
"""Most looks that are taken because something changed for the first time."""


@dataclass(frozen=True)
class Purity:
    """What a look at a step found."""

    step: int
    """The step that was looked at."""
    differs: tuple[str, ...]
    """Gradients and buffers that came out different, the worst first; empty: a function of the state."""
    changed: tuple[str, ...]
    """What steps changed that is neither a parameter, nor a buffer, nor carried in the state."""
    passed: int | None = None
    """The last step found to be a function of its state before; ``None`` at the start of a run."""
    behind: str = ""
    """The hooks behind the optimiser's step, where it is them that saw too early parameters."""

    @property
    def pure(self) -> bool:
        """Whether the step is a function of its state."""
        return not self.differs

    def line(self) -> str:
        """What a user should know of what was found, in one line."""
        left = f"steps also write {some(self.changed)}" if self.changed else ""
        if self.pure:
            return f"a step is a function of its state{f'; {left}, to no effect' if left else ''}"
        names = some(self.differs)
        if self.behind:
            return (
                f"step {self.step}: what follows the optimiser's step must not depend on what that does, got another "
                f"{names} from {self.behind}: run it in threestudio"
            )
        cause = f"{left}, which cannot be put back" if left else "what it depends on was not found"
        if self.passed is None:
            return f"a step must give the same twice, got another {names}; {cause}: run it in threestudio"
        return (
            f"step {self.step} must be a function of its state, got another {names} than without the steps before it "
            f"(step {self.passed} was still one); {cause}: run it in threestudio"
        )


class PurityMonitor:
    """Looks at whether a step is a function of its state.

    Args:
        process: the chain, before its first step is evaluated.
        tolerance: relative difference of two evaluations on a GPU, whose sums come in any order.
    """

    def __init__(self, process: Threestudio, tolerance: float = GPU_TOLERANCE) -> None:
        self._process, self._tolerance = process, tolerance
        self._witness = process.witness()
        self._begun = self._passed = self._next = 0
        self._last: int | None = None
        self._outline: dict[Any, Any] = {}
        self._woken: set[Any] = set()
        self._looks = 0
        self.seconds = 0.0
        """The seconds spent on looking so far."""

    def begin(self, state: State, ahead: int = 8) -> Purity:
        """Evaluate the step of a state, a later one, and the first again; then once more on the witness.

        On a CPU all must agree in every bit, on a GPU to the order of its sums.

        Args:
            state: where the run begins.
            ahead: how much later the step in between is.

        Raises:
            NotAChain: the step does what cannot be put back, or uses what is not known inside it.
        """
        began, replica = time.perf_counter(), self._process.replica
        before = outside(replica)
        first = self._evaluate(replica, state)
        self._evaluate(replica, replace(state, step=state.step + ahead))
        differs = self._differences(first, self._evaluate(replica, state))
        after = outside(replica)
        changed = _unequal(before, after)
        trained = [name for name in changed if name in replica.untrained]
        found = Purity(state.step, tuple(differs or trained), tuple(changed))
        if found.pure:
            found = replace(self._witnessed(state, first, None), changed=tuple(changed))
        self._begun = self._passed = state.step
        self._next = state.step + 1
        self._outline = self._seen(state.step)
        return self._done(state, found, began)

    def due(self, step: int, last: int) -> bool:
        """Whether to look at the step of an accepted state: 1, 2, 4, 8, ... steps after the first; the last one; and
        where the size of something, a level, a rate or what a part holds has changed for the first time.

        Args:
            step: of the state; to be asked for once a round.
            last: where the run arrives.
        """
        self._last = last
        now = self._seen(step)
        woken = {key for key in now.keys() | self._outline.keys() if now.get(key) != self._outline.get(key)}
        woken -= self._woken
        self._woken |= woken
        self._outline = now
        changed = bool(woken) and self._looks < WAKING
        self._looks += changed
        if step >= self._next:
            while self._next <= step:
                self._next = self._begun + 2 * (self._next - self._begun)
            return True
        return changed or step == last

    def look(self, state: State) -> Purity:
        """Evaluate the step of an accepted state on the system and on the witness.

        Raises:
            NotAChain: the step does what cannot be put back, or uses what is not known inside it.
        """
        began = time.perf_counter()
        if state.step == self._last:  # nobody says that there is such a step
            state = replace(state, step=state.step - 1)
        found = self._witnessed(state, self._evaluate(self._process.replica, state), self._passed)
        return self._done(state, found, began)

    def _witnessed(self, state: State, first: Drift, passed: int | None) -> Purity:
        """Hold an evaluation against the witness's, which sees behind the step what the step has made."""
        process, replica = self._process, self._process.replica
        other = self._witness or replica
        if other is replica:  # that it cannot be copied leaves the other look
            self._evaluate(replica, replace(state, step=state.step + 1))
        arrived = process.arrived(state, first)
        second = self._evaluate(other, state, arrived)
        differs = self._differences(first, second)
        if any(_floor(first.grads[name], self._tolerance) for name in differs if name in first.grads):
            again = _distances(second, self._evaluate(other, state, arrived), self._tolerance)
            differs = self._differences(first, second, {name: far for name, (far, _) in again.items()})
        if not differs:  # what trains itself may do so without an effect yet
            differs = [n for n, p in replica.untrained.items() if not _equal(p, other.untrained[n])]
        elif not any(name in first.grads for name in differs) and not self._differences(
            first, self._evaluate(other, state)
        ):  # nothing behind the step can move its gradients
            return Purity(state.step, tuple(differs), (), passed, _behind(process))
        changed = [] if other is replica or not differs else _unequal(outside(replica), outside(other))
        return Purity(state.step, tuple(differs), tuple(changed), passed)

    def _differences(
        self, first: Drift, second: Drift, noise: Mapping[str, float] | None = None
    ) -> list[str]:
        """Names of what differs, the worst first.

        Args:
            first: an evaluation.
            second: another one.
            noise: how far two evaluations are apart that nothing came between, by name.
        """
        known = noise or {}
        off = _distances(first, second, self._tolerance)
        found = [
            (far, n) for n, (far, floor) in off.items() if not far <= max(floor, NOISE * known.get(n, 0.0))
        ]
        return [name for _, name in sorted(found, reverse=True)]

    def _evaluate(self, replica: Replica, state: State, arrived: Mapping[str, Tensor] | None = None) -> Drift:
        """An evaluation that must leave the parameters alone, whatever way it would write them."""
        drift = replica.evaluate(state, arrived)
        params, left = arrived or state.params, replica.read()[0]
        written = [name for name, value in left.items() if not _equal(value, params[name])]
        if written:
            raise NotAChain(f"step {state.step}: {WRITTEN.format(some(written))}")
        return drift

    def _seen(self, step: int) -> dict[Any, Any]:
        """An outline of what all copies of the system hold, and the learning rates of a step."""
        found = {
            (i, name): value
            for i, replica in enumerate(self._process.replicas)
            for name, value in outline(replica).items()
        }
        return found | {("rate", name): rate for name, rate in self._process.stepper.rates(step).items()}

    def _done(self, state: State, found: Purity, began: float) -> Purity:
        self._process.commit(state)
        if found.pure:
            self._passed = state.step
        self.seconds += time.perf_counter() - began
        return found


def check(process: Threestudio, state: State, ahead: int = 8) -> Purity:
    """Look at the step of a state, at the start of a run; see ``PurityMonitor.begin``."""
    return PurityMonitor(process).begin(state, ahead)


def _distances(first: Drift, second: Drift, tolerance: float) -> dict[str, tuple[float, float]]:
    """How far gradients and buffers are apart, relative to their norm, and how far they may be; by name."""
    found: dict[str, tuple[float, float]] = {}
    for ours, theirs in zip(compared(first), compared(second), strict=True):
        for name in ours.keys() | theirs.keys():
            if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
                found[name] = (math.inf, 0.0)
            elif not _equal(a := ours[name], b := theirs[name]):
                far = float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-30))
                found[name] = (far, _floor(a, tolerance))
    return found


def _floor(tensor: Tensor, tolerance: float) -> float:
    """How far two evaluations of the same may be apart on its device."""
    return 0.0 if tensor.device.type == "cpu" else tolerance


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether all values are the same, one that is no number among them."""
    return torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))


def _unequal(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _behind(process: Threestudio) -> str:
    """What is called behind the optimiser's step and is not upstream's own."""
    system, found = process.system, []
    for hook, parts in (
        ("on_train_batch_end", [system]),
        ("update_step_end", [part for _, part in walk(system, skip=[process.replica.loader.dataset])]),
    ):
        for part in parts:
            kind = owner(part, hook)
            if kind is not None and not kind.__module__.startswith(
                ("threestudio.systems.base", "threestudio.utils")
            ):
                found.append(f"{kind.__name__}.{hook}")
    return some(list(dict.fromkeys(found))) or "update_step_end"
