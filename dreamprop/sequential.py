"""The plain loop, one step at a time: the oracle of the accelerated loop, and the baseline."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreamprop.error import nonfinite
from dreamprop.memory import reuse
from dreamprop.process import NonFiniteDrift, Process, group_of
from dreamprop.solution import Round, Solution, Stats, start
from dreamprop.state import State


@reuse()
def solve_sequential(
    process: Process,
    num_steps: int,
    *,
    state: State | None = None,
    callback: Callable[[Round], None] | None = None,
) -> Solution:
    """``z[t+1] = update(z[t], drift(z[t]))`` from the first step to the last.

    Args:
        process: the chain.
        num_steps: the step to arrive at, counted from step 0 of the chain.
        state: where to go on from; ``process.init()`` by default.
        callback: called after every step.

    Returns:
        The last state, and what it took.

    Raises:
        NonFiniteDrift: a gradient is NaN or Inf; names the step and the parameter group.
    """
    began = time.perf_counter()
    z = start(process, num_steps, state)
    stats = Stats.begin(z.step, num_steps)
    while z.step < num_steps:
        clock = time.perf_counter()
        drift = process.drift(z)
        bad = nonfinite(drift)
        if bad is not None:
            raise NonFiniteDrift(z.step, group_of(process, z, bad), bad)
        z = process.update(z, drift)
        stats.add([0.0], stride=1, drifts=1)
        if callback is not None:
            seconds = time.perf_counter() - clock
            callback(Round(z.step, num_steps, 1, [0.0], z, 1, seconds, stats.num_rounds - 1))
    stats.wall_seconds = time.perf_counter() - began
    return Solution(z, stats)
