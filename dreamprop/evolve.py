"""Solve the chain of a process as a config says, with a line and a bar for every round."""

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import dreamprop as dp
from dreamprop.build import Experiment
from dreamprop.config import InputError
from dreamprop.evaluate.batched import SmallerBatch
from dreamprop.interrupt import Guard
from dreamprop.progress import Bar
from dreamprop.ranks import Ranks
from dreamprop.roundlog import RoundLog
from dreamprop.shards import Sharded
from dreamprop.solution import Round
from dreamprop.state import State
from dreamprop.window import Window


def evolve(
    process: Any,
    experiment: Experiment,
    log: RoundLog | None,
    ranks: Ranks,
    *,
    sequential: bool,
    begin: Window,
    guard: Guard,
    watch: Callable[[Round], None] | None = None,
) -> State:
    """Solve the chain of a process to the last step, logging every round.

    Args:
        process: the chain.
        experiment: `parallel` says how, `trainer.max_steps` how far.
        log: takes a line a round; none where another process writes it.
        ranks: the processes that share the windows.
        sequential: step by step in this process, whatever `parallel` says.
        begin: where to begin.
        guard: keeps signals from cutting the bookkeeping in two.
        watch: called after every round.

    Returns:
        The final state.

    Raises:
        InputError: the disk refused a line.
        Interrupted: a signal asked for the end.
    """
    steps, first = experiment.config.trainer.max_steps, begin.states[0].step
    label = "sequential" if sequential else f"window {experiment.config.parallel.window}"

    def after(round: Round) -> None:
        with guard.hold():
            if log is not None and bar is not None:
                log.add(round)
                bar.show(round)
            if watch:
                watch(round)

    told = Bar(label, first, steps, rounds=len(log.rows)) if log is not None else nullcontext()
    with told as bar, warnings.catch_warnings():
        warnings.filterwarnings("always" if log is not None else "ignore", category=SmallerBatch)
        warnings.showwarning = _note  # type: ignore[assignment]
        if sequential:
            skip = experiment.config.parallel.on_nonfinite
            solution = dp.solve_sequential(process, steps, on_nonfinite=skip, state=begin, callback=after)
        else:
            options = solve_options(process, experiment, ranks)
            solution = dp.solve(process, steps, state=begin, callback=after, **options)
    return solution.state


def _note(message: Warning | str, *_: Any) -> None:
    print(f"note: {message}", file=sys.stderr)


def evaluator_name(process: Any, experiment: Experiment, ranks: Ranks) -> str:
    """The evaluator that a run uses: the one asked for, or what `parallel.evaluator: null` comes to.

    Raises:
        InputError: it would have every process do all the work.
    """
    parallel = experiment.config.parallel
    if ranks.size > 1:
        if parallel.evaluator not in (None, "distributed"):
            raise InputError(
                f"parallel.evaluator must be distributed with {ranks.size} processes, got {parallel.evaluator}; drop it"
            )
        return "distributed"
    if parallel.evaluator:
        return str(parallel.evaluator)
    exact = parallel.window == 1 or (parallel.error_rule == "step" and parallel.tolerance == 0)
    return "batched" if hasattr(process, "drift_window") and not exact else "serial"


def check(process: Any, experiment: Experiment, ranks: Ranks) -> None:
    """See that the processes can share the work as the config says, before anything is written.

    Raises:
        InputError: they cannot.
    """
    evaluator_name(process, experiment, ranks)
    if experiment.config.parallel.layout == "sharded" and ranks.size > 1:
        try:
            Sharded(process, ranks)
        except ValueError as error:
            raise InputError(f"parallel.layout: {error}") from None


def solve_options(process: Any, experiment: Experiment, ranks: Ranks) -> dict[str, Any]:
    """The block `parallel` as keyword arguments of `dreamprop.solve`."""
    parallel = experiment.config.parallel
    exact = parallel.error_rule == "step" and parallel.tolerance == 0
    make: dict[str, Callable[[], Any]] = {
        "serial": lambda: dp.evaluate.serial,
        "batched": lambda: dp.evaluate.batched(sub_batch=parallel.sub_batch),
        "distributed": lambda: dp.evaluate.distributed(
            layout=parallel.layout,
            sub_batch=parallel.sub_batch or (1 if exact else None),
            timeout=parallel.timeout,
        ),
    }
    return {
        "window": parallel.window,
        "tolerance": parallel.tolerance,
        "error_rule": parallel.error_rule,
        "threshold": parallel.threshold,
        "decay": parallel.decay,
        "aggregate": parallel.aggregate,
        "predictor": parallel.predictor,
        "evaluator": make[evaluator_name(process, experiment, ranks)](),
        "on_nonfinite": parallel.on_nonfinite,
    }
