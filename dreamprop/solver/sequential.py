"""The plain loop, one step at a time: the oracle of the accelerated loop, and the baseline."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreamprop.process import Chain, as_process
from dreamprop.solver.nonfinite import ON_NONFINITE, pass_over
from dreamprop.solver.norms import nonfinite
from dreamprop.solver.solution import Laps, Round, Solution, Stats, start
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils.cpu_allocator import reuse


@reuse()
def solve_sequential(
    process: Chain,
    num_steps: int,
    *,
    on_nonfinite: str = "stop",
    state: State | Window | None = None,
    callback: Callable[[Round], None] | None = None,
) -> Solution:
    """``z[t+1] = update(z[t], drift(z[t]))`` from the first step to the last.

    Args:
        process: the chain.
        num_steps: the step to arrive at, counted from step 0 of the chain.
        on_nonfinite: what a drift that is not finite does: ``stop``, or ``skip`` the update and count it.
        state: where to go on from; ``process.init()`` by default.
        callback: called after every step.

    Returns:
        The last state, and what it took.

    Raises:
        ValueError: an argument is out of range.
        NonFiniteDrift: a gradient is NaN or Inf; names the step and the parameter group.
    """
    began, process = time.perf_counter(), as_process(process)
    if on_nonfinite not in ON_NONFINITE:
        raise ValueError(
            f"on_nonfinite must be one of {', '.join(ON_NONFINITE)}, got {on_nonfinite!r}; use stop"
        )
    z = start(process, num_steps, state).states[0]
    stats = Stats.begin(z.step, num_steps)
    while z.step < num_steps:
        lap = Laps()
        drift = process.drift(z)
        bad = nonfinite([drift], z)[0]
        lap("drift")
        z = process.update(z, drift) if bad is None else pass_over(process, z, bad, on_nonfinite, stats)
        lap("rollout")
        round = Round(
            step=z.step,
            num_steps=num_steps,
            stride=1,
            errors=[0.0],
            drifts=1,
            seconds=lap.total,
            round=stats.num_rounds,
            carried_states=[z],
            skipped=bad is not None,
            laps=lap.seconds,
        )
        stats.add(round)
        if callback is not None:
            callback(round)
    stats.wall_seconds = time.perf_counter() - began
    return Solution(z, stats)
