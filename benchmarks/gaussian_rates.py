"""How calls and rounds grow with the dimension, on Gaussians, where the law that a sampler comes to is known exactly.

Half of d independent coordinates are N(1, 1/4), half N(-1, 2); the error is KL(what comes out || target at time END),
so there is no sampling error in it; for methods with random midpoints the mean over eight draws of them, which bounds
the KL of the mixture over all draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import torch
from common import Results

import dreamprop as dp
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.exponential import AffineStep, ddim, euler, exponential
from dreamprop.sampling.gaussian_law import gaussian_law
from dreamprop.sampling.mixture import GaussianMixture, gaussian_kl
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU
from dreamprop.sampling.piadm import reverse_chain
from dreamprop.sampling.picard_blocks import Block, solve_blocks
from dreamprop.sampling.randomized_midpoint import midpoint_chain
from dreamprop.sampling.score_chain import ScoreChain

END = 0.02
"""Where the samplers stop."""
GOAL = 0.1
"""KL that is to be reached: a total variation of at most sqrt(GOAL / 2) = 0.22."""
MANY = 12
"""Sweeps that change nothing any more."""
SEEDS = 8
"""Draws of the midpoints."""
F64 = torch.float64
TARGET = GaussianMixture(
    torch.tensor([[1.0, -1.0]], dtype=F64),
    torch.tensor([[0.25, 2.0]], dtype=F64),
    torch.ones(1, dtype=F64),
)
POINT = torch.zeros(1, 2, dtype=F64)
SDE, ODE = ReverseOU(1.0), ReverseOU(0.0)
Made = tuple[ScoreChain, list[Block]]


@dataclass(frozen=True)
class Found:
    """The error in one dimension, and what it took."""

    kl: float
    """For two coordinates, one of each kind; d of them have d/2 times as much."""
    rounds: int
    """Parallel rounds."""
    calls: int
    """Scores of one particle."""


NOISY = ("Euler-Maruyama", "exponential SDE", "PIADM-SDE", "PIADM-ODE, corrected")
"""Methods that draw noise."""


def horizon(d: int) -> int:
    """T, in whole units: pure noise is a quarter of the goal away at most, d e^{-T} / 2 <= GOAL / 4."""
    return math.ceil(math.log(2 * d / GOAL))


def law(made: Sequence[Made], parallel: bool) -> Found:
    """The mean error of some chains."""
    means, variances = (part[0, 0] for part in TARGET.noised(torch.tensor(END, dtype=F64)))
    total, stats = 0.0, None
    for chain, blocks in made:

        def solve(chain: ScoreChain, blocks: list[Block] = blocks) -> dp.Solution:
            if parallel:
                return solve_blocks(chain, blocks, evaluator="serial")
            return dp.solve_sequential(chain, len(chain.steps))

        mean, variance, solution = gaussian_law(chain, solve)
        total += gaussian_kl(mean, variance, means, variances).sum().item() / len(made)
        stats = solution.stats
    assert stats is not None
    return Found(total if math.isfinite(total) else math.inf, stats.num_rounds, stats.num_drifts)


def grid(T: int, steps: int) -> list[float]:
    """Even times from T to END."""
    return [T - (T - END) * i / steps for i in range(steps + 1)]


def cut(T: int, points: int) -> list[list[float]]:
    """T blocks with even points."""
    times = grid(T, T * points)
    return [times[b * points : (b + 1) * points + 1] for b in range(T)]


def plain(make: Callable[[float, float], AffineStep]) -> Callable[[int, int], Found]:
    """A sequential method of one score a step."""

    def measure(T: int, steps: int) -> Found:
        times = grid(T, steps)
        chain = ScoreChain(TARGET.score, [make(t, t - u) for t, u in pairwise(times)], POINT)
        return law([(chain, [])], False)

    return measure


def midpoints(T: int, steps: int) -> Found:
    """Sequential randomised midpoints."""
    return law([midpoint_chain(TARGET.score, POINT, [grid(T, steps)], seed=s) for s in range(SEEDS)], False)


SEQUENTIAL: dict[str, Callable[[int, int], Found]] = {
    "Euler-Maruyama": plain(lambda t, h: euler(SDE, t, h)),
    "exponential SDE": plain(lambda t, h: exponential(SDE, t, h)),
    "exponential ODE": plain(lambda t, h: exponential(ODE, t, h)),
    "DDIM": plain(lambda t, h: ddim(ODE, t, h)),
    "randomised midpoints": midpoints,
}
"""(T, steps) to what is found."""


def piadm(form: str, corrected: bool = False) -> Callable[[int, int, int], Found]:
    """PIADM with T blocks; the corrector has as many points and sweeps as half a block."""

    def measure(T: int, points: int, sweeps: int) -> Found:
        corrector = Corrector(max(2, points // 2), sweeps) if corrected else None
        times = cut(T, points)
        return law(
            [reverse_chain(TARGET.score, POINT, times, form=form, sweeps=sweeps, corrector=corrector)], True
        )

    return measure


def strata(T: int, points: int, sweeps: int) -> Found:
    """Parallel randomised midpoints: two steps a unit of time, so many strata in each."""
    made = [
        midpoint_chain(TARGET.score, POINT, [grid(T, 2 * T)], midpoints=points, sweeps=sweeps - 1, seed=s)
        for s in range(SEEDS)
    ]
    return law(made, True)


PARALLEL: dict[str, Callable[[int, int, int], Found]] = {
    "PIADM-SDE": piadm("sde"),
    "PIADM-ODE": piadm("ode"),
    "PIADM-ODE, corrected": piadm("ode", corrected=True),
    "parallel midpoints": strata,
}
"""(T, points, sweeps) to what is found; with midpoints the first sweep is the one that starts from the first score."""


def least(good: Callable[[int], bool], first: int) -> int:
    """The least number from `first` on for which something holds that goes on to hold."""
    low, high = first - 1, first
    while not good(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def sequential_need(name: str, d: int) -> dict[str, Any]:
    """The fewest steps that reach the goal in d dimensions."""
    T = horizon(d)
    steps = least(lambda n: SEQUENTIAL[name](T, n).kl * d / 2 <= GOAL, T)
    found = SEQUENTIAL[name](T, steps)
    return {"T": T, "steps": steps, "kl": found.kl * d / 2, "rounds": found.rounds, "calls": found.calls}


def parallel_need(name: str, d: int) -> dict[str, Any]:
    """The fewest points that reach half of the goal with many sweeps, and the fewest sweeps that then reach it."""
    T, measure = horizon(d), PARALLEL[name]
    points = least(lambda m: measure(T, m, MANY).kl * d / 2 <= GOAL / 2, 2)
    sweeps = next(k for k in count(1) if measure(T, points, k).kl * d / 2 <= GOAL)
    found = measure(T, points, sweeps)
    return {
        "T": T, "points": points, "sweeps": sweeps, "kl": found.kl * d / 2,
        "rounds": found.rounds, "calls": found.calls,
    }  # fmt: skip


def measure_rates(results: Results, most: int, noisy: int) -> list[dict[str, Any]]:
    """Calls and rounds that reach the goal, by method and dimension: powers of two.

    Args:
        results: those that were measured before.
        most: the largest dimension.
        noisy: that of methods that draw noise, whose exact law costs the square of the steps.
    """
    rows = []
    for power in range(1, most.bit_length()):
        for name in [*SEQUENTIAL, *PARALLEL]:
            d = 2**power
            if d > noisy and name in NOISY:
                continue
            found = results.find(part="rates", method=name, d=d)
            if found is None:
                need = sequential_need if name in SEQUENTIAL else parallel_need
                found = results.add({"part": "rates", "method": name, "d": d, **need(name, d)})
            rows.append(found)
    return rows


def measure_orders(results: Results, d: int, finest: int) -> list[dict[str, Any]]:
    """The error against calls with steps halved, and against sweeps at fixed points."""
    rows, T = [], horizon(d)
    trials: list[tuple[str, dict[str, int], Callable[[], Found]]] = []
    for name, sequential in SEQUENTIAL.items():
        for steps in (T * 2**i for i in range(1, finest + 1)):
            trials.append((name, {"steps": steps}, lambda f=sequential, n=steps: f(T, n)))
    for name, parallel in PARALLEL.items():
        points = 2**finest if name != "parallel midpoints" else 16
        for sweeps in range(1, 2 * finest + 1):
            trials.append((name, {"sweeps": sweeps}, lambda f=parallel, m=points, k=sweeps: f(T, m, k)))
    for name, key, measure in trials:
        found = results.find(part="orders", method=name, d=d, **key)
        if found is None:
            got = measure()
            row = {"part": "orders", "method": name, "d": d, **key, "kl": got.kl * d / 2}
            found = results.add(row | {"rounds": got.rounds, "calls": got.calls})
        rows.append(found)
    return rows
