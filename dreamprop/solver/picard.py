"""Generalised Picard iteration over the steps of a chain, DreamPropeller, arXiv:2311.17082, algorithm 1.

``window -> drift -> rollout -> error -> advance``: guess the next W states, evaluate their W drifts together,
roll the updates through them, keep the steps whose guess was good enough, slide the window, repeat.

Why the first state that fails is kept too: its drift is not, but the update into it used the drift of the
slot before, evaluated at a state that passed. So each round accepts at least one step, and a window of one
is sequential.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import TypeVar

from dreamprop.distributed.layout import REPLICATED, Layout
from dreamprop.distributed.process_group import is_single_process
from dreamprop.evaluate import EVALUATORS, Evaluator, batched, distributed
from dreamprop.evaluate.distributed import Distributed
from dreamprop.process import Process, groups
from dreamprop.solver.audit import SHARE, Audit
from dreamprop.solver.buffers import Units, trend
from dreamprop.solver.controller import ERROR_RULES, Paper, Rule, Step
from dreamprop.solver.nonfinite import ON_NONFINITE, pass_over
from dreamprop.solver.norms import measure
from dreamprop.solver.predict import PREDICTORS
from dreamprop.solver.rollout import rollout
from dreamprop.solver.solution import Laps, Round, Solution, Stats, start
from dreamprop.solver.window import Window, advance, end_of, fill
from dreamprop.state import Drift, State
from dreamprop.utils.cpu_allocator import reuse

T = TypeVar("T")
Evaluate = Callable[[Process, Sequence[State]], list[Drift]]


@reuse()
def solve(
    process: Process,
    num_steps: int,
    window: int = 8,
    tolerance: float = 1.0,
    *,
    error_rule: str = "step",
    threshold: float | None = None,
    decay: float = 0.9,
    aggregate: str = "median",
    predictor: str = "momentum",
    evaluator: Evaluator | str | None = None,
    on_nonfinite: str = "stop",
    buffer_units: Mapping[str, float] | None = None,
    audit: float = SHARE,
    state: State | Window | None = None,
    stop: int | None = None,
    callback: Callable[[Round], None] | None = None,
) -> Solution:
    """Run a chain with the drifts of a window of steps evaluated at the same time.

    Args:
        process: the chain.
        num_steps: the step to arrive at, counted from step 0 of the chain.
        window: steps evaluated together; 1 is the sequential run.
        tolerance: for the rule ``step``: how far a guess may be from the state the rollout arrives at, in
            units of the optimiser's nominal step. 0 accepts only what is bit for bit what the sequential run
            gives: for proofs, not for speed.
        error_rule: ``step``, or ``paper``: mean square x 1e6 against a moving threshold.
        threshold: for the rule ``paper``: where the threshold starts; 30 by default. A window to go on from
            brings its own.
        decay: for the rule ``paper``: how much of the threshold each round keeps.
        aggregate: for the rule ``paper``: it moves to the ``median``, ``mean`` or ``middle`` of the errors.
        predictor: first guesses: ``momentum``, or ``hold`` for copies.
        evaluator: of the drifts: ``dp.evaluate.serial``, ``dp.evaluate.batched(sub_batch=4)``,
            ``dp.evaluate.distributed(layout="sharded")``, or a name. By default distributed under ``torchrun``
            and where ``torch.distributed`` was started; else batched where the process has ``drift_window``;
            else, and with ``tolerance=0``, whose promise a batch's rounding would break, one by one.
        on_nonfinite: what a drift that is not finite does at an accepted state: ``stop``, or ``skip``: the
            update is left out and counted, as a gradient scaler does.
        buffer_units: by name or pattern of a buffer (``"*.occs"``), the relative difference that counts as much as
            an error of one nominal step; 0.1 by default, ``inf`` leaves a buffer out of the error.
        audit: share of the accepted steps whose drift is evaluated again at the state that was accepted, to tell in
            ``stats.audits`` what the tolerance gave up; 0: none. The run does not depend on it.
        state: where to go on from; ``process.init()`` by default. From the ``window`` of a round the run goes on
            as if it had never stopped, bit for bit.
        stop: a step on the way to stop at exactly, by default the last; the ``window`` of its round holds what lies
            ahead of it.
        callback: called after every round, with the accepted state. What it raises ends the run.

    Returns:
        The last state, and what it took. With several processes each of them gets the same.

    Raises:
        ValueError: an argument is out of range; one line with value, rule and remedy.
        NonFiniteDrift: a gradient at an accepted state is NaN or Inf; names the step and the parameter group.
            At a guess it is not compared and not used: the round ends before that slot, which is evaluated
            again at a better state.
        RankFailed: another process raised, and told why.
        RankLost: another process is gone or silent.
    """
    began = time.perf_counter()
    rule = _rule(error_rule, window, tolerance, threshold, decay, aggregate)
    guess = _named("predictor", predictor, PREDICTORS)
    _named("on_nonfinite", on_nonfinite, ON_NONFINITE)
    chosen = _evaluator(process, evaluator, rule)
    units = Units(buffer_units)
    first = start(process, num_steps, state)
    if rule.moves and first.threshold is not None:
        rule.limit = first.threshold
    evaluate, chain, layout = _start(process, chosen, first, rule.exact)
    carried, moving = [layout.shard(state) for state in first.states], first.trend
    check = Audit(0.0 if rule.exact else audit, getattr(evaluate, "size", 1))
    distance = getattr(process, "buffer_distance", None)
    look = partial(measure, exact=rule.exact, layout=layout, units=units, distance=distance)
    stop = _stop(stop, carried[0].step, num_steps)
    stats = Stats.begin(carried[0].step, stop)
    while (base := carried[0]).step < stop:
        lap = Laps()
        end = end_of(base.step, window, num_steps, chain.boundaries)
        size = end - base.step
        tail = rule.tail and end not in chain.boundaries
        guesses = fill(carried, size + tail, partial(guess, chain), moving)
        lap("guess")

        drifts = evaluate(chain, guesses[:size])
        if len(drifts) != size:
            raise ValueError(f"evaluator must return a drift for each of {size} states, got {len(drifts)}")
        lap("drift", exchange=getattr(evaluate, "seconds", 0.0))

        rolled = rollout(chain, base, drifts)
        lap("rollout")

        named = [groups(chain, base, step) for step in range(base.step, end)]
        norms, bad = look(guesses, rolled, drifts, named)
        num_finite = next((slot for slot in range(size) if bad[slot] is not None), size)
        behind = [rule(n, group) for n, group in zip(norms[:num_finite], named, strict=False)]
        # [W] of the drifts' states
        slot_errors = [0.0, *behind[:-1]] + [math.inf] * (size - max(num_finite, 1))
        stride = next((slot for slot in range(size) if not slot_errors[slot] <= rule.limit), size)
        stride = min(stride, stop - base.step)
        rule.settle(behind[: len(guesses) - 1])
        lap("error")

        found: list[float] = []
        if num_finite:
            carried = advance(rolled[:num_finite], stride)
            moving = trend([base, *rolled[:num_finite]], moving) if predictor == "momentum" else {}
            last = carried[0].step == stop
            found = check(partial(evaluate, chain), rolled, drifts, stride, last, layout)
            lap("audit")
        else:
            stride, carried, moving = 1, [pass_over(chain, base, str(bad[0]), on_nonfinite, stats)], {}
        round = Round(
            carried[0].step, num_steps, stride, slot_errors, size, lap.total, stats.num_rounds, carried,
            not num_finite, rule.limit if rule.moves else None, lap.seconds, layout, moving, found,
        )  # fmt: skip
        stats.add(round)
        if callback is not None:
            callback(round)
    final = layout.unshard(carried[0])
    stats.wall_seconds = time.perf_counter() - began
    return Solution(final, stats)


def _stop(stop: int | None, step: int, num_steps: int) -> int:
    """The step to stop at."""
    if stop is not None and not step <= stop <= num_steps:
        raise ValueError(f"stop must lie in [{step}, {num_steps}], got {stop}; give a step on the way")
    return num_steps if stop is None else stop


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}; use {next(iter(known))}")
    return known[name]


def _rule(
    name: str, window: int, tolerance: float, threshold: float | None, decay: float, aggregate: str
) -> Rule:
    if not isinstance(window, Integral) or isinstance(window, bool) or window < 1:
        raise ValueError(f"window must be >= 1, got {window!r}; use 1 to run sequentially")
    kind = _named("error_rule", name, ERROR_RULES)
    step = Step(tolerance)
    if kind is Step:
        return step
    if step.exact:
        raise ValueError(
            f"tolerance must be > 0 with error_rule {name}, got 0; use error_rule step for proofs"
        )
    return Paper(30.0 if threshold is None else threshold, decay, aggregate)


def _evaluator(process: Process, evaluator: Evaluator | str | None, rule: Rule) -> Evaluator:
    if evaluator is None:
        if not is_single_process():
            return distributed()
        evaluator = "batched" if hasattr(process, "drift_window") and not rule.exact else "serial"
    if evaluator is batched:
        return batched()
    if isinstance(evaluator, str):
        return _named("evaluator", evaluator, EVALUATORS)()
    if not callable(evaluator) and not isinstance(evaluator, Distributed):
        raise ValueError(f"evaluator must map (process, states) to drifts, got {evaluator!r}; use serial")
    return copy.copy(evaluator)  # what it learns in this run is no business of the next


def _start(
    process: Process, evaluator: Evaluator, first: Window, exact: bool
) -> tuple[Evaluate, Process, Layout]:
    """The evaluator of this run, the chain as it lies over processes, and how its states do."""
    if isinstance(evaluator, Distributed):
        run = evaluator.start(process, first.states[0], exact)
        return run, run.process, run.layout
    return evaluator, process, REPLICATED
