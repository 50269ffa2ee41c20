"""Anderson mixing with a memory of one round, triangular in the steps: ParaTAA, arXiv:2402.09970, section 3.3.

The states that a round rolls out are a fixed-point map F of its guesses x. Between two rounds that reach the same
steps,

    r_i = F_i(x) - x_i,    gamma_i = sum_{j <= i} <dr_j, r_j> / sum_{j <= i} <dr_j, dr_j>,    x_i <- F_i - gamma_i dF_i

with d for what changed since the round before. The sums run over the steps behind the accepted state, so that no guess
depends on a later one, and parameters count in units of their group's nominal step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dreamprop.process import Group
from dreamprop.state import State


class Anderson:
    """Mixes what a round leaves behind with what the round before left."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[State, State]] = {}
        """Guess and rolled-out state of the last round, by step."""

    def __call__(
        self,
        carried: Sequence[State],
        guesses: Sequence[State],
        rolled: Sequence[State],
        groups: Sequence[Mapping[str, Group]],
    ) -> list[State]:
        """The accepted state, and better guesses of those behind it.

        Args:
            carried: the accepted state, then rolled-out states of the steps behind it.
            guesses: [W] the base and the guesses behind it.
            rolled: [F] rolled-out states, the i-th beside the (i+1)-th guess.
            groups: [W] error groups of the updates.
        """
        begin = rolled[0].step
        now = {after.step: (guess, after) for guess, after in zip(guesses[1:], rolled, strict=False)}
        mixed, product, square = [carried[0]], None, None
        for state in carried[1:]:
            if state.step not in now or state.step not in self._last:
                break
            (x, f), (x0, f0) = now[state.step], self._last[state.step]
            for name, unit in _units(groups[state.step - begin], f):
                r = (f.params[name] - x.params[name]) / unit
                dr = r - (f0.params[name] - x0.params[name]) / unit
                product, square = _plus(product, (dr * r).sum()), _plus(square, dr.square().sum())
            if product is None or square is None:
                break
            gamma = torch.where(square > 0, product / square, torch.zeros_like(square))
            params = {n: p - gamma.to(p) * (p - f0.params[n]) for n, p in f.params.items()}
            mixed.append(replace(state, params=params))
        self._last = {step: pair for step, pair in now.items() if step > carried[0].step}
        return [*mixed, *carried[len(mixed) :]]


def _units(groups: Mapping[str, Group], state: State) -> list[tuple[str, float]]:
    """The parameters that count, each with the nominal step of its group; with no group's, all of them as they are."""
    if all(group.step is None for group in groups.values()):
        return [(name, 1.0) for name in state.params]
    return [
        (name, group.step)
        for group in groups.values()
        if group.step and math.isfinite(group.step)
        for name in group.names
        if name in state.params
    ]


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term.to(total.device)
