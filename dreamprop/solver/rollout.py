"""Apply updates in order with drifts that were evaluated all at once."""

from __future__ import annotations

from collections.abc import Sequence

from dreamprop.process import Process
from dreamprop.state import Drift, State, check_shapes


def rollout(process: Process, base: State, drifts: Sequence[Drift]) -> list[State]:
    """``z[b+i+1] = update(z[b+i], drift_i)`` from the accepted state on, arXiv:2311.17082, algorithm 1.

    Args:
        process: the chain.
        base: the accepted state, entering step b.
        drifts: [W] of steps b, b+1, ...

    Returns:
        [W] states entering steps b+1, b+2, ...; their moments follow from the accepted ones.
    """
    states = []
    state = base
    for drift in drifts:
        before, state = state, process.update(state, drift)
        if state.step != before.step + 1:
            raise ValueError(
                f"update must return step {before.step + 1}, got {state.step}; add one to the step"
            )
        if state.step not in process.boundaries:
            check_shapes(before, state)
        states.append(state)
    return states
