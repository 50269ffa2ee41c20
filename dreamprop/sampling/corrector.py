"""Correctors and samplers by Langevin dynamics, in sequence or in parallel.

The same integrators as for the reversed process, at a score that does not change with time: of a log-concave target
(arXiv:1909.05503, in parallel arXiv:2401.09016), or of one noise level of a diffusion model, where a short run of
underdamped dynamics turns nearness in Wasserstein distance into nearness in total variation (arXiv:2405.15986,
arXiv:2406.00924).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.sampling.exponential import exponential
from dreamprop.sampling.langevin import UnderdampedLangevin
from dreamprop.sampling.linear_sde import VELOCITY, LinearSDE
from dreamprop.sampling.midpoint_step import randomized_midpoint_step
from dreamprop.sampling.ornstein_uhlenbeck import sigma
from dreamprop.sampling.picard_blocks import Block
from dreamprop.sampling.score_chain import Score, ScoreChain, Step


def langevin_steps(
    sde: LinearSDE,
    h: float,
    num_steps: int,
    *,
    n: int,
    seed: int,
    key: int = 0,
    time: float = 0.0,
    block: int | None = None,
    midpoints: int = 0,
    sweeps: int = 1,
) -> tuple[list[Step], list[Block]]:
    """Steps at a score that does not change, and the blocks in which they are parallel.

    Args:
        sde: ``Langevin()`` or ``UnderdampedLangevin(friction)``; a velocity is drawn before the first step.
        h: length of a step.
        num_steps: steps of the dynamics.
        n: particles.
        seed: of the run.
        key: step of the chain that the first one will be, which with the seed is the key of the midpoints.
        time: Ornstein-Uhlenbeck time of the score; 0 for a target that knows of no noise.
        block: exponential integrator: steps of a block; all by default.
        midpoints: R randomised midpoints of a step; 0 is the exponential integrator.
        sweeps: Picard sweeps: of a block; with midpoints of a step, where 0 and one midpoint are the sequential method.

    Raises:
        ValueError: an argument is out of range.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, got {num_steps}; give the steps of the dynamics")
    fresh = VELOCITY in sde.components
    steps: list[Step] = []
    blocks: list[Block] = []
    if midpoints == 0:
        steps = [exponential(sde, time, h, refresh=fresh and i == 0) for i in range(num_steps)]
        size = Block(num_steps if block is None else block, sweeps).num_steps
        return steps, [Block(min(size, num_steps - i), sweeps) for i in range(0, num_steps, size)]
    for i in range(num_steps):
        more, cut = randomized_midpoint_step(
            sde, time, h, n=n, seed=seed, key=key + len(steps), midpoints=midpoints, sweeps=sweeps, clock=0.0,
            refresh=fresh and i == 0,
        )  # fmt: skip
        steps, blocks = steps + more, blocks + cut
    return steps, blocks


def langevin_chain(
    score: Score,
    x: Tensor,
    sde: LinearSDE,
    h: float,
    num_steps: int,
    *,
    block: int | None = None,
    midpoints: int = 0,
    sweeps: int = 1,
    seed: int = 0,
) -> tuple[ScoreChain, list[Block]]:
    """Langevin dynamics on a target as a chain, and the blocks in which it is parallel; arguments as for
    ``langevin_steps``.

    Args:
        score: (x, t) to grad log p(x), whatever t.
        x: [n, ...] where the particles start.
        sde: over- or underdamped.
        h: length of a step.
        num_steps: steps of the dynamics.
        block: steps of a block of the exponential integrator.
        midpoints: randomised midpoints of a step; 0 is the exponential integrator.
        sweeps: Picard sweeps.
        seed: of midpoints and noise.
    """
    steps, blocks = langevin_steps(
        sde, h, num_steps, n=len(x), seed=seed, block=block, midpoints=midpoints, sweeps=sweeps
    )
    return ScoreChain(score, steps, x, seed), blocks


@dataclass(frozen=True)
class Corrector:
    """Underdamped Langevin dynamics at one noise level, in units of the length on which its score changes.

    -grad^2 log p_t is at most 1 / sigma_t^2, since p_t is a convolution with N(0, sigma_t^2 I): so sigma_t is that
    length, and with time in the same unit the level's equations are those of a score of Lipschitz constant 1.
    """

    num_steps: int = 4
    """Steps at a noise level."""
    sweeps: int = 2
    """Picard sweeps: of all of the steps; with midpoints, of each."""
    duration: float = 0.5
    """How long it acts, in units of sigma_t."""
    friction: float = 2.0
    """gamma in units of 1 / sigma_t."""
    midpoints: int = 0
    """Randomised midpoints of a step (arXiv:1909.05503); 0 is the exponential integrator."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"duration of the corrector must be > 0, got {self.duration}; use about 0.5")
        self.steps(1.0, 1, 0, 0)  # whose settings are checked where they are used

    def steps(self, time: float, n: int, seed: int, key: int) -> tuple[list[Step], list[Block]]:
        """The steps at a noise level, and the blocks in which they are parallel.

        Raises:
            ValueError: there is no noise at that time.
        """
        if time <= 0:
            raise ValueError(f"time of a corrector must be > 0, got {time}; stop earlier or correct nothing")
        unit = float(sigma(torch.tensor(time, dtype=torch.float64)))
        return langevin_steps(
            UnderdampedLangevin(self.friction / unit),
            self.duration * unit / max(self.num_steps, 1),
            self.num_steps,
            n=n, seed=seed, key=key, time=time, midpoints=self.midpoints, sweeps=self.sweeps,
        )  # fmt: skip
