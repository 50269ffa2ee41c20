"""Buffers along a chain: the unit in which a difference counts as an error of a guess, and how counts go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from dreamprop.state import State

UNIT = 0.1
"""Relative difference of a buffer that counts as much as an error of one nominal step."""


class Units:
    """The unit of each buffer's relative difference.

    Args:
        given: units by name, or by a pattern as of a shell (``*.occs``), the first that fits; ``inf`` leaves a
            buffer out of the error.

    Raises:
        ValueError: a unit is not > 0.
    """

    def __init__(self, given: Mapping[str, float] | None = None) -> None:
        self._given = dict(given or {})
        for name, unit in self._given.items():
            if not unit > 0:
                raise ValueError(f"buffer_units must be > 0, got {unit} for {name}; use inf to leave it out")

    def of(self, name: str) -> float:
        """The unit of a buffer; ``UNIT`` by default."""
        return next((unit for fits, unit in self._given.items() if fnmatchcase(name, fits)), UNIT)


def trend(states: Sequence[State], before: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What integer buffers move by each step: what they moved by in both of the last two, and else 0.

    A count would else be wrong in every fresh guess, and the guess would be rejected for it.

    Args:
        states: that follow one another; of the last three it is read off.
        before: what they were taken to move by, kept where there are fewer states.
    """
    if len(states) < 3:
        return before
    first, middle, last = (state.buffers for state in states[-3:])
    found = {}
    for name, value in last.items():
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            continue
        if value is middle[name] or not value.shape == middle[name].shape == first[name].shape:
            continue
        step = value - middle[name]
        found[name] = torch.where(step == middle[name] - first[name], step, torch.zeros_like(step))
    return found


def follow(guess: State, known: State, trend: Mapping[str, Tensor]) -> State:
    """A guess with its integer buffers moved along a trend, those that the process guessed itself left as they are."""
    moving = {n: b + trend[n] for n, b in guess.buffers.items() if n in trend and b is known.buffers.get(n)}
    if not moving:
        return guess
    return replace(guess, buffers={**guess.buffers, **moving})
