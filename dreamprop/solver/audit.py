"""A sampled check of what a tolerance gave up: drifts evaluated again at the states that were really accepted.

The drift of an accepted step was evaluated at a guess. For a small share of these steps it is evaluated once more at
the state that the rollout arrived at, and how far the two are apart is reported:
``||g(accepted) - g(guess)|| / max(||g(accepted)||, ||g(guess)||)`` over all gradients together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dreamprop.distributed.layout import Layout
from dreamprop.rng import key
from dreamprop.state import Drift, State
from dreamprop.utils.exact_sum import partial_sums, piece_norms, total

Evaluate = Callable[[Sequence[State]], list[Drift]]
SHARE = 0.02
"""Share of the accepted steps that is looked at by default."""


class Audit:
    """Chooses accepted steps and evaluates their drifts again, as many at a time as there are processes.

    What is chosen depends on steps and strides alone, and nothing of the run depends on it.

    Args:
        share: of the accepted steps; 0: none.
        slots: drifts that are evaluated at the same time anyway.

    Raises:
        ValueError: the share is not in [0, 1].
    """

    def __init__(self, share: float, slots: int = 1) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"audit must lie in [0, 1], got {share}; use 0 to look at no step again")
        self.share, self.slots = share, slots
        self._owed = 1.0  # so that a short run is looked at too
        self._waiting: list[tuple[State, Drift]] = []

    def note(self, rolled: Sequence[State], drifts: Sequence[Drift], stride: int) -> None:
        """Keep what is chosen of a round.

        Args:
            rolled: [F] the rolled-out states of the round.
            drifts: [F] the drifts that they were rolled out with; the first was evaluated at its own state.
            stride: steps that the round accepted.
        """
        if not self.share:
            return
        self._owed += self.share * stride
        # a guess was only behind the slots after the first
        slots = sorted(range(1, stride), key=lambda slot: key(0, rolled[slot].step, "audit"))
        while self._owed >= 1 and slots:
            slot = slots.pop(0)
            self._owed -= 1
            self._waiting.append((_stored(rolled[slot - 1]), _kept(drifts[slot])))

    def run(self, evaluate: Evaluate, like: State, last: bool, layout: Layout) -> list[float]:
        """Evaluate what is waiting once it fills the processes.

        Args:
            evaluate: states to their drifts.
            like: a state that lies where those to evaluate are to lie.
            last: whether the run ends here.
            layout: how states lie over processes.

        Returns:
            Relative differences, most often none.
        """
        if not self._waiting or not (last or len(self._waiting) >= self.slots):
            return []
        waiting, self._waiting = self._waiting, []
        found = []
        for first in range(0, len(waiting), self.slots):
            some = waiting[first : first + self.slots]
            again = evaluate([_on(state, like) for state, _ in some])
            pairs = zip(some, again, strict=True)
            found += [relative_difference(state, drift, used, layout) for (state, used), drift in pairs]
        return found


def relative_difference(state: State, now: Drift, used: Drift, layout: Layout) -> float:
    """How far two drifts of a state are apart, in [0, 2]; infinite where one is not finite.

    Args:
        state: that they belong to.
        now: a drift.
        used: another one.
        layout: how states lie over processes, which must all ask together.
    """
    owners: list[int] = []
    norms: list[Tensor] = []
    for name in sorted(now.grads.keys() | used.grads.keys()):
        if layout.counts(state, name):
            pair = [drift.grads.get(name) for drift in (now, used)]
            some = next(g for g in pair if g is not None)
            a, b = (torch.zeros_like(some) if g is None else g.detach().to(some.device) for g in pair)
            columns, found = piece_norms(range(3), [a - b, a, b])
            owners += columns
            norms += found
    values = torch.stack([norm.double() for norm in norms]).tolist() if norms else []
    sums: list[list[float]] = [[], [], []]
    for column, value in zip(owners, values, strict=True):
        sums[column].append(value * value)
    gathered = layout.gather([[partial_sums(terms) for terms in sums]])
    off, one, other = (total(chain.from_iterable(parts)) for parts in zip(*gathered, strict=True))
    if not math.isfinite(off + one + other):
        return math.inf
    return math.sqrt(off / max(one, other)) if off else 0.0


def summary(found: Sequence[float]) -> dict[str, Any] | None:
    """What a run reports of its audit: ``count``, ``median`` and ``worst``; None where nothing was looked at.

    A difference that is not finite is told as None, since JSON knows no infinity.
    """
    if not found:
        return None
    values: Mapping[str, float] = {"median": median(found), "worst": max(found)}
    return {"count": len(found)} | {k: v if math.isfinite(v) else None for k, v in values.items()}


def line(found: Mapping[str, Any] | None) -> str:
    """What the last lines of a run say of its audit."""
    if found is None:
        return "audit: no accepted step was looked at"
    values = ("not finite" if found[k] is None else f"{100 * found[k]:.2g}%" for k in ("median", "worst"))
    return "audit: drifts used and drifts of {} accepted states differ by {} (median), {} (worst)".format(
        found["count"], *values
    )


def _stored(state: State) -> State:
    """What a drift reads of a state, in the memory of the host: it may wait for many rounds."""
    params, buffers = ({n: t.to("cpu") for n, t in part.items()} for part in (state.params, state.buffers))
    return replace(state, params=params, moments={}, buffers=buffers)


def _kept(drift: Drift) -> Drift:
    return Drift({name: grad.to("cpu") for name, grad in drift.grads.items()})


def _on(state: State, like: State) -> State:
    """A stored state where the run's states are."""
    params = {n: t.to(like.params[n].device) for n, t in state.params.items()}
    buffers = {n: t.to(like.buffers[n].device) for n, t in state.buffers.items()}
    return replace(state, params=params, buffers=buffers)
