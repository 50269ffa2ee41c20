"""Solve the chain of a process as a config says, with a line and a bar for every round."""

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.evaluate.sub_batch import SmallerBatch
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.parallel import solve_options
from dreamprop.runs.progress import Bar
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import State
from dreamprop.utils.signals import Guard


def solve_chain(
    process: Any,
    experiment: Experiment,
    log: RoundLog | None,
    communicator: Communicator,
    *,
    sequential: bool,
    begin: Window,
    guard: Guard,
    callback: Callable[[Round], None] | None = None,
) -> State:
    """Solve the chain of a process to the last step, logging every round.

    Args:
        process: the chain.
        experiment: `parallel` says how, `trainer.max_steps` how far.
        log: takes a line a round; none where another process writes it.
        communicator: the processes that share the windows.
        sequential: step by step in this process, whatever `parallel` says.
        begin: where to begin.
        guard: keeps signals from cutting the bookkeeping in two.
        callback: called after every round.

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
            if callback:
                callback(round)

    shown = Bar(label, first, steps, rounds=len(log.rows)) if log is not None else nullcontext()
    with shown as bar, warnings.catch_warnings():
        warnings.filterwarnings("always" if log is not None else "ignore", category=SmallerBatch)
        warnings.showwarning = _note  # type: ignore[assignment]
        if sequential:
            skip = experiment.config.parallel.on_nonfinite
            solution = dp.solve_sequential(process, steps, on_nonfinite=skip, state=begin, callback=after)
        else:
            options = solve_options(process, experiment.config.parallel, communicator)
            solution = dp.solve(process, steps, state=begin, callback=after, **options)
    return solution.state


def _note(message: Warning | str, *_: Any) -> None:
    print(f"note: {message}", file=sys.stderr)
