"""Evaluate the drifts of a window one after another."""

from __future__ import annotations

from collections.abc import Sequence

from dreamprop.process import Process
from dreamprop.state import Drift, State


def serial(process: Process, states: Sequence[State]) -> list[Drift]:
    """The drift of each state, by ``process.drift``; bit for bit what the sequential run computes there."""
    return [process.drift(state) for state in states]
