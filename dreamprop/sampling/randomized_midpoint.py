"""Randomised midpoints for diffusion models, sequential and parallel, arXiv:2406.00924.

The probability-flow ODE by steps with randomised midpoints (``midpoint_step.py``), and after each stretch of time of
length O(1) a corrector, underdamped Langevin dynamics at that noise level. Sequentially that takes O(d^(5/12)) scores
for a total variation that does not grow with d; with O(sqrt(d)) midpoints in steps of length O(1), swept O(log d)
times, O(log^2 d) parallel rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.exponential import decreasing
from dreamprop.sampling.midpoint_step import randomized_midpoint_step
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU, eta_of
from dreamprop.sampling.picard_blocks import Block
from dreamprop.sampling.score_chain import Score, ScoreChain, Step


def midpoint_chain(
    score: Score,
    x: Tensor,
    times: Sequence[Sequence[float]],
    *,
    form: str = "ode",
    midpoints: int = 1,
    sweeps: int = 0,
    corrector: Corrector | None = None,
    seed: int = 0,
) -> tuple[ScoreChain, list[Block]]:
    """A reversed Ornstein-Uhlenbeck process by randomised midpoints, and the blocks in which it is parallel.

    Args:
        score: of the particles at their times.
        x: [n, ...] the particles at the first time.
        times: falling times between which steps go; at the end of each of the lists the corrector acts.
        form: ``ode``, as published, or ``sde``.
        midpoints: R of a step.
        sweeps: Picard sweeps of a step; 0 with one midpoint is the sequential method.
        corrector: underdamped Langevin dynamics.
        seed: of midpoints and noise.

    Returns:
        The chain, for ``solve_sequential`` and ``solve``; and its blocks, for ``solve_blocks``.

    Raises:
        ValueError: an argument is out of range.
    """
    sde = ReverseOU(eta_of(form))
    steps: list[Step] = []
    blocks: list[Block] = []
    for part in times:
        grid = decreasing(part)
        for t, later in pairwise(grid):
            more, cut = randomized_midpoint_step(
                sde, t, t - later, n=len(x), seed=seed, key=len(steps), midpoints=midpoints, sweeps=sweeps
            )
            steps, blocks = steps + more, blocks + cut
        if corrector is not None:
            more, cut = corrector.steps(grid[-1], len(x), seed, len(steps))
            steps, blocks = steps + more, blocks + cut
    return ScoreChain(score, steps, x, seed), blocks
