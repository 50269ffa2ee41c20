"""Solve the chain of a process as a config says, with a line and a bar for every round."""

from collections.abc import Callable
from typing import Any

import dreamprop as dp
from dreamprop.build import Experiment
from dreamprop.interrupt import Guard
from dreamprop.progress import Bar
from dreamprop.roundlog import RoundLog
from dreamprop.solution import Round
from dreamprop.state import State


def evolve(
    process: Any,
    experiment: Experiment,
    log: RoundLog,
    *,
    sequential: bool,
    state: State,
    guard: Guard,
    watch: Callable[[Round], None] | None = None,
) -> State:
    """Solve the chain of a process from a state to the last step, logging every round.

    Args:
        process: the chain.
        experiment: `parallel` says how, `trainer.max_steps` how far.
        log: takes a line a round.
        sequential: step by step, whatever `parallel` says.
        state: where to begin.
        guard: keeps signals from cutting the bookkeeping in two.
        watch: called after every round.

    Returns:
        The final state.

    Raises:
        InputError: the disk refused a line.
        Interrupted: a signal asked for the end.
    """
    steps = experiment.config.trainer.max_steps
    label = "sequential" if sequential else f"window {experiment.config.parallel.window}"

    def after(round: Round) -> None:
        with guard.hold():
            log.add(round)
            bar.show(round)
            if watch:
                watch(round)

    with Bar(label, state.step, steps, rounds=len(log.rows)) as bar:
        if sequential:
            solution = dp.solve_sequential(process, steps, state=state, callback=after)
        else:
            solution = dp.solve(
                process, steps, state=state, callback=after, **solve_options(process, experiment)
            )
    return solution.state


def evaluator_name(process: Any, experiment: Experiment) -> str:
    """The evaluator that a run uses: the one asked for, or what `parallel.evaluator: null` comes to."""
    parallel = experiment.config.parallel
    if parallel.evaluator:
        return str(parallel.evaluator)
    exact = parallel.window == 1 or (parallel.error_rule == "step" and parallel.tolerance == 0)
    return "batched" if hasattr(process, "drift_window") and not exact else "serial"


def solve_options(process: Any, experiment: Experiment) -> dict[str, Any]:
    """The block `parallel` as keyword arguments of `dreamprop.solve`."""
    parallel = experiment.config.parallel
    batched = evaluator_name(process, experiment) == "batched"
    return {
        "window": parallel.window,
        "tolerance": parallel.tolerance,
        "error_rule": parallel.error_rule,
        "threshold": parallel.threshold,
        "decay": parallel.decay,
        "aggregate": parallel.aggregate,
        "predictor": parallel.predictor,
        "evaluator": dp.evaluate.batched(sub_batch=parallel.sub_batch) if batched else dp.evaluate.serial,
    }
