"""Impulse responses: what an integrator makes of a Gaussian target, exactly.

The score of a Gaussian is affine, so is all that is made of it: x_N = r + R_0 x_0 + sum_j R_j xi_j, by coordinate.
Particles that start from 0 with no noise, from 1, or get one of the noises alone, are these coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.rng import generator
from dreamprop.sampling.score_chain import ScoreChain

Solve = Callable[[ScoreChain], dp.Solution]


class Impulses(ScoreChain):
    """A chain whose draws are zero but for particle i, for whom draw number i is one."""

    def __init__(self, chain: ScoreChain, particles: int) -> None:
        start = torch.zeros(particles, chain._x.shape[1], dtype=torch.float64)
        start[1] = 1
        super().__init__(chain.score, chain.steps, start, chain.seed)
        self.numbers: dict[tuple[int, str], int] = {}

    def noise(self, step: int, stream: str, like: Tensor) -> Tensor:
        number = self.numbers.setdefault((step, stream), 2 + len(self.numbers))
        drawn = torch.zeros_like(like)
        if number < len(drawn):
            drawn[number] = 1
        return drawn


def law(
    chain: ScoreChain, solve: Solve, start_mean: float = 0.0, start_variance: float = 1.0
) -> tuple[Tensor, Tensor, dp.Solution]:
    """Mean and variance [d] of what a chain comes to, exactly, and the solution that tells them."""
    counting = Impulses(chain, 2)
    solve(counting)
    probes = Impulses(chain, 2 + len(counting.numbers))
    solution = solve(probes)
    x = solution.state.params["x"]
    responses = x[1:] - x[:1]
    mean = x[0] + responses[0] * start_mean
    return mean, responses[0].square() * start_variance + responses[1:].square().sum(0), solution


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise in float64."""
    return torch.randn(*shape, generator=generator(seed, 0, "test"), dtype=torch.float64)
