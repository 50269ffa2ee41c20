"""What a drift that is not finite does to a run."""

from __future__ import annotations

from dreamprop.errors import NonFiniteDrift
from dreamprop.process import Process, group_of
from dreamprop.solver.solution import Stats
from dreamprop.state import State

ON_NONFINITE = {"stop": False, "skip": True}
"""What may happen at a drift that is not finite, and whether the run goes on."""
IN_A_ROW = 32
"""Skipped steps one after another at which a run ends all the same: it would get nowhere."""


def pass_over(process: Process, z: State, parameter: str, on_nonfinite: str, stats: Stats) -> State:
    """The state behind a drift that is not finite, with ``skip_update``.

    Raises:
        NonFiniteDrift: with ``stop``; after too many skips in a row; or where shapes change at the next step and the
            process does not say by ``skip_update(state)`` how they do without an update.
    """
    passed = skip_update(process, z) if ON_NONFINITE[on_nonfinite] and stats.in_a_row < IN_A_ROW else None
    if passed is None:
        raise NonFiniteDrift(z.step, group_of(process, z, parameter), parameter)
    return passed


def skip_update(process: Process, state: State) -> State | None:
    """The state a step later with the update left out, by ``process.skip_update``; ``None`` where it would have other
    shapes and only the process could know which."""
    passed = process.skip_update(state)
    if passed is not None and passed.step != state.step + 1:
        raise ValueError(
            f"skip_update must return step {state.step + 1}, got {passed.step}; add one to the step"
        )
    return passed
