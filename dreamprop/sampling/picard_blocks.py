"""Picard sweeps over the blocks of a chain: a fixed number of parallel evaluations a block, arXiv:2405.15986.

A block is a run of steps. Its states are guessed by ``process.predict`` (by default copies of the first, y_m^0 = y_0);
a sweep evaluates their drifts at the same time and rolls the updates through them from the block's first state:

    y_{m+1}^{k+1} = update(y_m^{k+1}, drift(y_m^k)),     y_0^k = y_0

which for the exponential integrator is the published sum over j <= m, written as a recursion. So y_m^k is what the
sequential chain has at m as soon as k >= m: with as many sweeps as steps the block is the sequential one bit for
bit, and a state that is settled is not evaluated again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dreamprop import evaluate as evaluators
from dreamprop.evaluate import Evaluator
from dreamprop.process import Chain, as_process
from dreamprop.solver.nonfinite import pass_over
from dreamprop.solver.norms import nonfinite
from dreamprop.solver.predict import momentum
from dreamprop.solver.rollout import rollout
from dreamprop.solver.solution import Laps, Round, Solution, Stats
from dreamprop.state import State
from dreamprop.utils.cpu_allocator import reuse


@dataclass(frozen=True)
class Block:
    """Steps whose drifts are evaluated together."""

    num_steps: int
    """Steps of the block."""
    sweeps: int
    """Parallel evaluations, one after another; as many as steps make the block exact."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "sweeps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a block must be an integer >= 1, got {value!r}; use at least 1")


@reuse()
def solve_blocks(
    process: Chain,
    blocks: Sequence[Block],
    *,
    evaluator: Evaluator | str | None = None,
    state: State | None = None,
    callback: Callable[[Round], None] | None = None,
) -> Solution:
    """Run a chain block by block, each by its number of Picard sweeps.

    Args:
        process: the chain.
        blocks: one after another; the run arrives at the sum of their steps.
        evaluator: of the drifts, as for ``solve``; by default distributed under ``torchrun``, else batched where the
            process has ``drift_window``. One by one (``serial``, or ``distributed(sub_batch=1)``) the result is the
            same on any number of ranks to the last bit.
        state: where to go on from; ``process.init()`` by default.
        callback: called after every sweep.

    Returns:
        The last state, and what it took: a round is a sweep.

    Raises:
        ValueError: an argument is out of range.
        NonFiniteDrift: a drift of a block's last sweep is NaN or Inf; names the step.
    """
    began = time.perf_counter()
    first = process.init() if state is None else state
    num_steps = first.step + sum(block.num_steps for block in blocks)
    evaluation = evaluators.start(evaluator, as_process(process), first, exact=False)
    chain, layout = evaluation.process, evaluation.layout
    base = layout.shard(first)
    stats = Stats.begin(first.step, num_steps)
    for block in blocks:
        ahead, guess = [base], base
        while len(ahead) < block.num_steps:
            guess = momentum(chain, guess)
            ahead.append(replace(guess, moments={}))
        num_sweeps = min(block.sweeps, block.num_steps)
        for sweep in range(num_sweeps):
            lap = Laps()
            drifts = evaluation(ahead)
            lap("drift", exchange=evaluation.seconds)
            last = sweep == num_sweeps - 1
            if last:
                for slot, bad in enumerate(nonfinite(drifts, base, layout)):
                    if bad is not None:
                        pass_over(chain, ahead[slot], bad, "stop", stats)
            rolled = rollout(chain, base, drifts)
            width, base = len(ahead), rolled[-1] if last else rolled[0]
            ahead = [base, *(replace(z, moments={}) for z in rolled[1:-1])]
            lap("rollout")
            stride = width if last else 1
            round = Round(
                step=base.step,
                num_steps=num_steps,
                stride=stride,
                errors=[0.0],
                width=width,
                drifts=width,
                seconds=lap.total,
                round=stats.num_rounds,
                carried_states=[base],
                laps=lap.seconds,
                layout=layout,
            )
            stats.add(round)
            if callback is not None:
                callback(round)
    final = layout.unshard(base)
    stats.wall_seconds = time.perf_counter() - began
    return Solution(final, stats)
