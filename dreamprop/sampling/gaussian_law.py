"""What a sampler makes of a Gaussian target, without sampling error: impulse responses.

The score of a Gaussian with independent coordinates is affine in each of them, and so is all that an integrator makes
of it, sweeps, midpoints and correctors included:

    x_N = r + R_0 x_0 + sum_j R_j xi_j,     mean r + R_0 E x_0,     variance R_0^2 Var x_0 + sum_j R_j^2.

Particles that start from 0 without noise, from 1, or get one of the draws alone, are these coefficients; the solver
that moves them is the one that moves any others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamprop.sampling.linear_sde import POSITION
from dreamprop.sampling.score_chain import ScoreChain
from dreamprop.solver.solution import Solution


class Impulses(ScoreChain):
    """A chain whose draws are zero but for particle i, whose draw number i is one.

    Args:
        chain: with one particle, or midpoints of one, which all particles here share.
        particles: coefficients that are asked for.
    """

    def __init__(self, chain: ScoreChain, particles: int) -> None:
        start = torch.zeros(particles, chain.init().params[POSITION].shape[1], dtype=torch.float64)
        start[1] = 1
        super().__init__(chain.score, chain.steps, start, chain.seed)
        self.numbers: dict[tuple[int, str], int] = {}
        """Of the draws that were asked for."""

    def noise(self, step: int, stream: str, like: Tensor) -> Tensor:
        """One for its particle, zero for the others."""
        number = self.numbers.setdefault((step, stream), 2 + len(self.numbers))
        drawn = torch.zeros_like(like)
        if number < len(drawn):
            drawn[number] = 1
        return drawn


def gaussian_law(
    chain: ScoreChain, solve: Callable[[ScoreChain], Solution], mean: float = 0.0, variance: float = 1.0
) -> tuple[Tensor, Tensor, Solution]:
    """The law that a chain on a Gaussian target comes to, by coordinate.

    Args:
        chain: on a target of d coordinates with one particle.
        solve: solves a chain.
        mean, variance: of each coordinate at the start.

    Returns:
        Mean [d], variance [d], and the solution that tells them.
    """
    counting = Impulses(chain, 2)
    solve(counting)
    solution = solve(Impulses(chain, 2 + len(counting.numbers)))
    x = solution.state.params[POSITION]
    responses = x[1:] - x[:1]
    spread = responses[0].square() * variance + responses[1:].square().sum(0)
    return x[0] + responses[0] * mean, spread, solution
