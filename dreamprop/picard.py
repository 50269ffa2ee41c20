"""Generalised Picard iteration over the steps of a chain, DreamPropeller, arXiv:2311.17082, algorithm 1.

``window -> drift -> rollout -> error -> advance``: guess the next W states, evaluate their W drifts together,
roll the updates through them, keep the steps whose guess was good enough, slide the window, repeat.

Why the first state that fails is kept too: its drift is not, but the update into it used the drift of the
slot before, evaluated at a state that passed. So each round accepts at least one step, and a window of one
is sequential.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TypeVar

from dreamprop.error import ERROR_RULES, Paper, Rule, Step, measure
from dreamprop.evaluate import EVALUATORS, Evaluator
from dreamprop.memory import reuse
from dreamprop.predict import PREDICTORS
from dreamprop.process import NonFiniteDrift, Process, group_of, groups
from dreamprop.rollout import rollout
from dreamprop.solution import Round, Solution, Stats, start
from dreamprop.state import State
from dreamprop.window import advance, end_of, fill

T = TypeVar("T")


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
    state: State | None = None,
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
        threshold: for the rule ``paper``: where the threshold starts; 30 by default.
        decay: for the rule ``paper``: how much of the threshold each round keeps.
        aggregate: for the rule ``paper``: it moves to the ``median``, ``mean`` or ``middle`` of the errors.
        predictor: first guesses: ``momentum``, or ``hold`` for copies.
        evaluator: of the drifts: ``dp.evaluate.serial``, ``dp.evaluate.batched(sub_batch=4)``, or a name. By
            default batched where the process has ``drift_window``; serial where it has not, and with
            ``tolerance=0``, whose promise a batch's rounding would break.
        state: where to go on from; ``process.init()`` by default.
        callback: called after every round, with the accepted state. What it raises ends the run.

    Returns:
        The last state, and what it took.

    Raises:
        ValueError: an argument is out of range; one line with value, rule and remedy.
        NonFiniteDrift: a gradient at an accepted state is NaN or Inf; names the step and the parameter group.
            At a guess it is not compared and not used: the round ends before that slot, which is evaluated
            again at a better state.
    """
    began = time.perf_counter()
    rule = _rule(error_rule, window, tolerance, threshold, decay, aggregate)
    guess = _named("predictor", predictor, PREDICTORS)
    evaluate = _evaluator(process, evaluator, rule)
    known = [start(process, num_steps, state)]
    stats = Stats.begin(known[0].step, num_steps)
    while (base := known[0]).step < num_steps:
        clock = time.perf_counter()
        end = end_of(base.step, window, num_steps, process.boundaries)
        size = end - base.step
        tail = rule.tail and end not in process.boundaries
        guesses = fill(known, size + tail, lambda state: guess(process, state))

        drifts = evaluate(process, guesses[:size])
        if len(drifts) != size:
            raise ValueError(f"evaluator must return a drift for each of {size} states, got {len(drifts)}")

        rolled = rollout(process, base, drifts)

        parts = [groups(process, base, step) for step in range(base.step, end)]
        norms, bad = measure(guesses, rolled, drifts, parts, exact=rule.exact)
        usable = next((slot for slot in range(size) if bad[slot] is not None), size)
        if usable == 0:
            raise NonFiniteDrift(base.step, group_of(process, base, str(bad[0])), str(bad[0]))
        behind = [rule(n, part) for n, part in zip(norms[:usable], parts, strict=False)]
        errors = [0.0, *behind[:-1]] + [math.inf] * (
            size - usable
        )  # [W] of the states the drifts were taken at
        stride = next((slot for slot in range(size) if not errors[slot] <= rule.limit), size)
        rule.settle(behind[: len(guesses) - 1])

        known = advance(rolled[:usable], stride)
        stats.add(errors, stride, len(drifts))
        if callback is not None:
            seconds, index = time.perf_counter() - clock, stats.num_rounds - 1
            callback(Round(known[0].step, num_steps, stride, errors, known[0], size, seconds, index))
    stats.wall_seconds = time.perf_counter() - began
    return Solution(known[0], stats)


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
        evaluator = "batched" if hasattr(process, "drift_window") and not rule.exact else "serial"
    if isinstance(evaluator, str):
        return _named("evaluator", evaluator, EVALUATORS)
    if not callable(evaluator):
        raise ValueError(f"evaluator must map (process, states) to drifts, got {evaluator!r}; use serial")
    return evaluator
