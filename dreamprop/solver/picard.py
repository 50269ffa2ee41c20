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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from dreamprop import evaluate as evaluators
from dreamprop.distributed.layout import REPLICATED, Layout
from dreamprop.evaluate import Evaluator
from dreamprop.process import Chain, as_process, groups
from dreamprop.solver.anderson import Anderson
from dreamprop.solver.audit import SHARE, Audit
from dreamprop.solver.buffers import Units, trend
from dreamprop.solver.controller import Controller, accept, make_controller, remembered
from dreamprop.solver.nonfinite import ON_NONFINITE, pass_over
from dreamprop.solver.norms import measure, nonfinite
from dreamprop.solver.predict import PREDICTORS
from dreamprop.solver.rollout import rollout
from dreamprop.solver.solution import Laps, Round, Solution, Stats, start
from dreamprop.solver.timing import Timed
from dreamprop.solver.window import Window, advance, end_of, fill
from dreamprop.solver.window_choice import AUTO, Decision, Windows, as_windows
from dreamprop.state import State
from dreamprop.utils.cpu_allocator import reuse

T = TypeVar("T")


@reuse()
def solve(
    process: Chain,
    num_steps: int,
    window: int | str | Sequence[Decision] | Windows = AUTO,
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
        window: steps evaluated together; 1 is the sequential run. ``auto`` tries windows on the way and takes the one
            whose steps are the quickest, by the clock: for the same result twice give a number, or the
            ``stats.decisions`` of a run, which are followed.
        tolerance: for the rule ``step``: how far a guess may be from the state the rollout arrives at, in
            units of the optimiser's nominal step. 0 accepts only what is bit for bit what the sequential run
            gives: for proofs, not for speed.
        error_rule: ``step``, or ``paper``: mean square x 1e6 against a moving threshold.
        threshold: for the rule ``paper``: where the threshold starts; 30 by default. A window to go on from
            brings its own.
        decay: for the rule ``paper``: how much of the threshold each round keeps.
        aggregate: for the rule ``paper``: it moves to the ``median``, ``mean`` or ``middle`` of the errors.
        predictor: guesses: by ``momentum``, or ``hold`` for copies, where there is no state that was rolled out;
            ``restart``: by momentum, and all of a window anew in every round; ``anderson``: by momentum, and what was
            rolled out is mixed with what the round before rolled out (from a state, in layout ``replicated``).
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
    windows = as_windows(window)
    controller: Controller[Any] = make_controller(error_rule, tolerance, threshold, decay, aggregate)
    predict = _named("predictor", predictor, PREDICTORS)
    _named("on_nonfinite", on_nonfinite, ON_NONFINITE)
    units = Units(buffer_units)
    own = as_process(process)
    first = start(own, num_steps, state)
    evaluate = evaluators.start(evaluator, own, first.states[0], controller.exact)
    chain, layout = evaluate.process, evaluate.layout
    limit = controller.init(first.threshold)
    carried, moving = [layout.shard(z) for z in first.states], first.trend
    mix = _mixing(len(carried), layout) if predict.mixes else None
    stop = _stop(stop, carried[0].step, num_steps)
    audited = Audit(0.0 if controller.exact else audit, evaluate.size)
    # where guesses must be exact, and where fresh ones are copies, nothing beats what was rolled out
    forgetful = own.predictive and not predict.copies and not controller.exact
    look = partial(
        measure, exact=controller.exact, layout=layout, units=units, distance=chain.buffer_distance
    )
    stats = Stats.begin(carried[0].step, stop)
    del state, first  # what a round no longer needs is free while a window is evaluated
    while (base := carried[0]).step < stop:
        width = windows.of(base, num_steps, evaluate)
        lap = Laps()
        end = end_of(base.step, width, num_steps, chain.boundaries)
        size = end - base.step
        tail = controller.tail and end not in chain.boundaries
        guesses = fill(carried, size + tail, partial(predict.guess, chain), moving)
        del carried
        lap("guess")

        drifts = evaluate(guesses[:size])
        lap("drift", exchange=evaluate.seconds)

        bad = nonfinite(drifts, base, layout)
        num_finite = next((slot for slot, name in enumerate(bad) if name), size)
        rolled = rollout(chain, base, drifts[:num_finite])
        lap("rollout")

        if not num_finite:
            stride, errors = 1, [0.0] + [math.inf] * (size - 1)
            carried, moving = [pass_over(chain, base, str(bad[0]), on_nonfinite, stats)], {}
        elif size + tail == 1:  # a plain step: nothing was guessed
            stride, errors, carried = 1, [0.0], rolled
        else:
            named = [groups(chain, base, step) for step in range(base.step, end)]
            norms = look(guesses, rolled, named)
            stride, errors, limit = accept(controller, norms, named, limit)
            stride = min(stride, stop - base.step)
            moving = {} if predict.copies else trend([base, *rolled], moving)
            audited.note(rolled, drifts, stride)
            kept = size
            if forgetful:
                kept = stride if predict.anew else remembered(controller, norms, named, stride)
            carried = advance(rolled, stride, kept)
            if mix is not None and not controller.exact:
                carried = mix(carried, guesses, rolled, named)
        del base, guesses, drifts, rolled
        lap("error")

        found = audited.run(evaluate, carried[0], carried[0].step == stop, layout)
        lap("audit")
        round = Round(
            step=carried[0].step,
            num_steps=num_steps,
            stride=stride,
            errors=errors,
            width=width,
            drifts=size,
            seconds=lap.total,
            round=stats.num_rounds,
            carried_states=carried,
            skipped=not num_finite,
            threshold=limit,
            laps=lap.seconds,
            layout=layout,
            trend=moving,
            audits=found,
        )
        stats.add(round)
        if width == size and num_finite:
            windows.learn(Timed(size, lap.total - lap.seconds["audit"], stride))
        if callback is not None:
            callback(round)
        del round
    final = layout.unshard(carried[0])
    stats.decisions = list(windows.decisions)
    stats.wall_seconds = time.perf_counter() - began
    return Solution(final, stats)


def _stop(stop: int | None, step: int, num_steps: int) -> int:
    """The step to stop at."""
    if stop is not None and not step <= stop <= num_steps:
        raise ValueError(f"stop must lie in [{step}, {num_steps}], got {stop}; give a step on the way")
    return num_steps if stop is None else stop


def _mixing(known: int, layout: Layout) -> Anderson:
    """What mixes the states of two rounds.

    Raises:
        ValueError: it would have to remember the round that a window comes from, or see all of states that are cut.
    """
    if known > 1:
        raise ValueError("predictor anderson must begin from a state, got a window; use momentum")
    if layout is not REPLICATED:
        raise ValueError("predictor anderson must have layout replicated, got sharded; use momentum")
    return Anderson()


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}; use {next(iter(known))}")
    return known[name]
