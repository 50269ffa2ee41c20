"""Parareal over the steps of a chain, pipelined: SRDS, arXiv:2412.08292, algorithm 1.

The N steps are cut into B blocks. There are two ways through a block: F, the chain's own steps one by one, and G, one
coarse step. ``x[i, p]`` is what sweep p knows of the state behind block i; ``x[0, p]`` is the start.

    x[i, 0] = G(x[i-1, 0])
    x[i, p] = F(x[i-1, p-1]) + (G(x[i-1, p]) - G(x[i-1, p-1]))    for i > p,    x[p, p] = F(x[p-1, p-1])

By induction ``x[p, p]`` is the sequential run's to the last bit, and so is every later sweep's, which is therefore not
computed again: the published correction is zero there. A sweep does not wait for the one before: in sweep p block i
begins as soon as ``x[i-1, p-1]`` is there. A round evaluates one drift of every block that is under way, and the drift
at ``x[i, p]`` serves both G and the first step of F.

Legend: N steps, B blocks, the i-th of L_i steps; P sweeps until the run stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Integral
from typing import Any, Protocol

import torch

from dreamprop import evaluate as evaluators
from dreamprop.distributed.layout import REPLICATED
from dreamprop.errors import NonFiniteDrift
from dreamprop.evaluate import Evaluator
from dreamprop.process import Chain, Process, as_process, group_of
from dreamprop.solver.norms import nonfinite
from dreamprop.solver.solution import Laps, Round, Solution, Stats
from dreamprop.state import Drift, State


class CoarseChain(Chain, Protocol):
    """A chain that can take many steps at once as well, not exactly.

    It may have ``correct(fine, coarse, old)`` too, where the correction below (`correct`) is not its own.
    """

    def jump(self, state: State, drift: Drift, step: int) -> State:
        """The state that enters a later step, from the drift at this one alone; writes nothing in place."""
        ...


def parareal(
    process: CoarseChain,
    num_steps: int,
    blocks: int | None = None,
    *,
    tolerance: float,
    max_sweeps: int | None = None,
    evaluator: Evaluator | str | None = None,
    callback: Callable[[Round], None] | None = None,
) -> Solution:
    """Run a chain from step 0 with all of its blocks under way at the same time.

    P sweeps over blocks of L steps take B + P (L - 1) rounds (`num_rounds`). All B sweeps take N, as many as the
    sequential run, and evaluate N (B + 1) / 2 drifts.

    Args:
        process: the chain, with a coarse step ``jump``.
        num_steps: N, the step to arrive at.
        blocks: B; ceil(sqrt(N)) by default.
        tolerance: the run stops at a sweep whose last state differs from that of the sweep before by less, in the mean
            absolute difference of a parameter; the largest counts. 0 never stops: the result is bit for bit that of
            ``solve_sequential``, for proofs and not for speed.
        max_sweeps: where to stop in any case; B by default, where the result is exact.
        evaluator: of the drifts, as ``solve`` takes it; with several processes each of them gets the same.
        callback: called after every round, with the last state that is known to be exact.

    Returns:
        The last state, and what it took. ``stats.errors`` has the differences that the tolerance is held against, each
        with the round that its sweep ended in (`differences`); ``stats.strides`` the steps by which what is accepted
        grew. All drifts count, those of sweeps that had begun behind the last one too.

    Raises:
        ValueError: an argument is out of range; one line with value, rule and remedy.
        NonFiniteDrift: a gradient at a state known to be exact is NaN or Inf, or the last state is.
    """
    began, chain = time.perf_counter(), as_process(process)
    _check(process, tolerance, max_sweeps)
    ends = block_ends(num_steps, blocks)
    num_blocks = len(ends) - 1
    last_sweep = num_blocks if max_sweeps is None else min(max_sweeps, num_blocks)
    exact, previous = chain.init(), None
    evaluate = evaluators.start(evaluator, chain, exact, tolerance == 0)
    if evaluate.layout is not REPLICATED:
        raise ValueError("layout must be replicated for parareal, got sharded; drop layout")
    wave = _Wavefront(chain, process.jump, getattr(process, "correct", correct), ends, last_sweep, exact)
    stats, finished = Stats.begin(0, num_steps), False
    while not finished:
        lap, step = Laps(), exact.step
        width = len(wave.under_way)

        drifts = evaluate(wave.states)
        lap("drift", exchange=evaluate.seconds)

        exact = wave.advance(drifts) or exact
        errors: list[float] = []
        for sweep, state in wave.begin():
            if previous is not None:
                errors.append(difference(state, previous))
                finished = sweep == last_sweep or errors[-1] < tolerance
            previous = state
            if finished:
                exact = state
                break
        lap("rollout")

        round = Round(
            step=exact.step,
            num_steps=num_steps,
            stride=exact.step - step,
            errors=errors,
            width=width,
            drifts=width,
            seconds=lap.total,
            round=stats.num_rounds,
            carried_states=[exact],
            laps=lap.seconds,
        )
        stats.add(round)
        if callback is not None:
            callback(round)
    _check_finite(chain, replace(exact, step=num_steps - 1), Drift(exact.params))
    stats.wall_seconds = time.perf_counter() - began
    return Solution(exact, stats)


@dataclass
class _Wavefront:
    """The blocks that are under way, of all sweeps; [i, p] is a block and a sweep."""

    chain: Process
    jump: Callable[[State, Drift, int], State]
    correct: Callable[[State, State, State], State]
    ends: Sequence[int]
    last_sweep: int
    first: State
    fine: dict[tuple[int, int], State] = field(default_factory=dict)
    """F(x[i-1, p-1])"""
    coarse: dict[tuple[int, int], State] = field(default_factory=dict)
    """G(x[i-1, p])"""

    def __post_init__(self) -> None:
        self.under_way = {(0, 0): self.first}
        """Where the fine steps that began from x[i, p] have come to."""
        self.next_block = [max(sweep, 1) for sweep in range(self.last_sweep + 1)]
        """Of each sweep p the first block i whose x[i, p] is not known."""

    @property
    def states(self) -> list[State]:
        """Where a drift is wanted."""
        return list(self.under_way.values())

    def advance(self, drifts: Sequence[Drift]) -> State | None:
        """Take the steps that these drifts allow; the next exact state, if one of them led there.

        Raises:
            NonFiniteDrift: at the exact one.
        """
        exact = None
        for ((i, p), state), drift in zip(list(self.under_way.items()), drifts, strict=True):
            if i == p:
                _check_finite(self.chain, state, drift)
            if state.step == self.ends[i]:
                self.coarse[i + 1, p] = self.jump(state, drift, self.ends[i + 1])
            if p == self.last_sweep:  # no sweep comes after it that would need the fine steps
                del self.under_way[i, p]
                continue
            self.under_way[i, p] = after = self.chain.update(state, drift)
            if i == p:
                exact = after
            if after.step == self.ends[i + 1]:
                self.fine[i + 1, p + 1] = self.under_way.pop((i, p))
        return exact

    def begin(self) -> list[tuple[int, State]]:
        """Begin at every x[i, p] that has become known; the last ones, x[B, p], with their sweeps p."""
        found = []
        for p, i in enumerate(self.next_block):
            if (p > 0 and (i, p) not in self.fine) or (p < i and (i, p) not in self.coarse):
                continue
            state = self.fine.pop((i, p)) if p else self.coarse[i, 0]
            if p:
                old = self.coarse.pop((i, p - 1))
                state = state if i == p else self.correct(state, self.coarse[i, p], old)
            self.next_block[p] += 1
            if i < len(self.ends) - 1:
                self.under_way[i, p] = state
            else:
                found.append((p, state))
        return found


def correct(fine: State, coarse: State, old: State) -> State:
    """``fine + (coarse - old)`` in the parameters, in this order, so that nothing is rounded where the coarse steps
    agree; moments and buffers are those of the fine steps."""
    return replace(fine, params={n: y + (coarse.params[n] - old.params[n]) for n, y in fine.params.items()})


def differences(stats: Stats) -> list[float]:
    """[P] how far the last state of each sweep was from that of the sweep before; as many as there were sweeps."""
    return [found for errors in stats.errors for found in errors]


def num_rounds(num_steps: int, blocks: int, sweeps: int) -> int:
    """The length of the critical path of P sweeps: B + the sum of the P largest L_i - 1.

    ``x[i, p]`` comes L_i rounds after ``x[i-1, p-1]`` and one after ``x[i-1, p]``, whichever is later. A path from the
    start to ``x[B, P]`` passes all B blocks, P of them in the first way, and the longest path has the longest blocks
    among these. P = B makes it N.
    """
    lengths = sorted((b - a for a, b in pairwise(block_ends(num_steps, blocks))), reverse=True)
    return blocks + sum(length - 1 for length in lengths[:sweeps])


def difference(a: State, b: State) -> float:
    """The mean absolute difference of each parameter, and of these the largest; waits for the device once."""
    means = [(a.params[name] - b.params[name]).abs().mean(dtype=torch.float32) for name in a.params]
    return float(torch.stack(means).max())


def block_ends(num_steps: int, blocks: int | None) -> list[int]:
    """[B + 1] the steps at which blocks begin and end, from 0 to N; their lengths differ by at most one.

    Raises:
        ValueError: either is no count, or there are fewer steps than blocks.
    """
    if not _is_count(num_steps):
        raise ValueError(f"num_steps must be an integer >= 1, got {num_steps!r}; give the step to arrive at")
    if blocks is None:
        blocks = math.isqrt(num_steps - 1) + 1
    if not _is_count(blocks) or blocks > num_steps:
        raise ValueError(
            f"blocks must be an integer in [1, num_steps = {num_steps}], got {blocks!r}; "
            f"use {math.isqrt(num_steps - 1) + 1}, the root of the steps"
        )
    return [num_steps * i // blocks for i in range(blocks + 1)]


def _check(process: Any, tolerance: float, max_sweeps: int | None) -> None:
    """Raise ``ValueError`` where the chain or an argument does not suit."""
    if not hasattr(process, "jump"):
        raise ValueError(
            f"process must have jump(state, drift, step), got {type(process).__name__} without; use dp.solve"
        )
    if process.boundaries:
        raise ValueError(
            f"process must keep its shapes, got boundaries at {sorted(process.boundaries)[:5]}; use dp.solve"
        )
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance}; use 0 for the sequential result")
    if max_sweeps is not None and not _is_count(max_sweeps):
        raise ValueError(
            f"max_sweeps must be an integer >= 1, got {max_sweeps!r}; use null to run until exact"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _check_finite(process: Process, state: State, drift: Drift) -> None:
    """Raise ``NonFiniteDrift`` where a gradient is NaN or Inf."""
    if bad := nonfinite([drift], state)[0]:
        raise NonFiniteDrift(state.step, group_of(process, state, bad), bad)
