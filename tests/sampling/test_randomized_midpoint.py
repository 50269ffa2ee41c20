"""Randomised midpoints: unbiased, of a higher order than one score a step, parallel without a change of a bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.exponential import exponential
from dreamprop.sampling.gaussian_law import gaussian_law
from dreamprop.sampling.langevin import Langevin, UnderdampedLangevin
from dreamprop.sampling.linear_sde import LinearSDE
from dreamprop.sampling.midpoint_step import Beginning, Midpoint, Plan, randomized_midpoint_step
from dreamprop.sampling.mixture import GaussianMixture
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU
from dreamprop.sampling.picard_blocks import solve_blocks
from dreamprop.sampling.randomized_midpoint import midpoint_chain
from dreamprop.sampling.score_chain import ScoreChain, gaussian
from dreamprop.state import equal

F64 = torch.float64
TARGET = GaussianMixture(
    torch.tensor([[0.0, 1.0, -2.0]], dtype=F64),
    torch.tensor([[0.2, 1.0, 3.0]], dtype=F64),
    torch.ones(1, dtype=F64),
)
SDES: dict[str, LinearSDE] = {
    "ODE": ReverseOU(0.0),
    "SDE": ReverseOU(1.0),
    "Langevin": Langevin(),
    "underdamped": UnderdampedLangevin(1.5),
}


def silent(stream: str, offset: int) -> Tensor:
    """No noise."""
    return torch.zeros(32, 1, dtype=F64)


def plan_of(sde: LinearSDE, midpoints: int, h: float = 0.7) -> tuple[Plan, Tensor]:
    """A plan whose 32 particles have Gauss-Legendre nodes for midpoints, and the weights of their mean."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))
    a = (torch.arange(midpoints, dtype=F64)[:, None] + (nodes + 1) / 2) / midpoints
    start, length = torch.tensor([2.0, h], dtype=F64).unbind()
    return Plan(sde, start, 1.0, length, a, 0), weights / 2


@pytest.mark.parametrize("midpoints", [1, 3])
@pytest.mark.parametrize("name", SDES)
def test_the_estimate_of_the_integral_has_no_bias(name: str, midpoints: int) -> None:
    """For any score along the path, here sin(5 t): the mean over the midpoints is the integral."""
    sde = SDES[name]
    plan, weights = plan_of(sde, midpoints)
    z = {f"x/base.{c}": torch.zeros(32, 1, dtype=F64) for c in range(len(sde.components))}
    z |= {f"x/path.{c}": torch.zeros(32, 1, dtype=F64) for c in range(len(sde.components))}
    for i in range(midpoints):
        z[f"x/score.{i}"] = torch.sin(5 * Midpoint(plan, 0, i).time)[:, None]
    found = plan.end(z, silent, 0)
    u = torch.linspace(0, 0.7, 4001, dtype=F64)
    force = torch.sin(5 * (2.0 - u))
    for name_, kernel in zip(sde.components, sde.kernel(0.7 - u), strict=True):
        integral = torch.trapezoid(kernel * force, u)
        torch.testing.assert_close((weights * found[name_][:, 0]).sum(), integral, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_a_midpoint_is_exact_for_a_constant_score(name: str) -> None:
    """The position at a midpoint, its noise included, is that of an exponential step of its length."""
    sde = SDES[name]
    steps, _ = randomized_midpoint_step(sde, 2.0, 0.7, n=1, seed=0, key=0, midpoints=2)
    plan = steps[0].plan  # type: ignore[attr-defined]

    def score(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, -1.3)

    for i, place in enumerate([*plan.a[:, 0], torch.ones((), dtype=F64)]):
        direct = [exponential(sde, 2.0, float(place * plan.h), refresh=True)]
        begun = [Beginning(replace(plan, refresh=True)), *steps[1:]]
        laws = [
            gaussian_law(
                ScoreChain(score, some, torch.zeros(1, 1, dtype=F64)),
                lambda c, end=end: dp.solve_sequential(c, end),
            )
            for some, end in ((begun, i + 1), (direct, 1))
        ]
        torch.testing.assert_close(laws[0][1], laws[1][1], rtol=1e-10, atol=1e-12)
        if i < 2:  # at the end a sum over midpoints stands for the integral
            torch.testing.assert_close(laws[0][0], laws[1][0], rtol=1e-10, atol=1e-12)


def test_the_sequential_method_is_the_published_one() -> None:
    """arXiv:2406.00924 on its own clock, dx = (x + s) dt', t' = t/2."""
    x = gaussian((4, 3), 0, F64)
    chain, blocks = midpoint_chain(TARGET.score, x, [[2.0, 1.2]])
    a = chain.steps[1].plan.a[0][:, None]  # type: ignore[attr-defined]
    h, t = 0.4, torch.tensor(2.0, dtype=F64)
    middle = torch.exp(a * h) * x + torch.expm1(a * h) * TARGET.score(x, t)
    later = TARGET.score(middle, (t - 2 * a * h)[:, 0])
    published = np.exp(h) * x + h * torch.exp((1 - a) * h) * later
    found = solve_blocks(chain, blocks)
    torch.testing.assert_close(found.state.params["x"], published, rtol=1e-12, atol=1e-12)
    assert (found.stats.num_rounds, found.stats.num_drifts) == (2, 2)


def test_the_sweeps_are_the_published_ones() -> None:
    """Each midpoint from the scores of the last sweep, held in their strata."""
    x, count, h, t = gaussian((4, 3), 0, F64), 3, 0.4, torch.tensor(2.0, dtype=F64)
    chain, blocks = midpoint_chain(TARGET.score, x, [[2.0, 1.2]], midpoints=count, sweeps=2)
    a = chain.steps[1].plan.a  # type: ignore[attr-defined]
    first = TARGET.score(x, t)
    points = [torch.exp(a[i] * h)[:, None] * x + torch.expm1(a[i] * h)[:, None] * first for i in range(count)]
    for _ in range(2):
        scores = [TARGET.score(points[j], t - 2 * a[j] * h) for j in range(count)]
        points = [
            torch.exp(a[i] * h)[:, None] * x
            + sum(
                (
                    torch.exp(a[i] * h - j * h / count)
                    - torch.exp(torch.clamp(a[i] * h - (j + 1) * h / count, min=0))
                )[:, None]
                * scores[j]
                for j in range(i + 1)
            )
            for i in range(count)
        ]
    scores = [TARGET.score(points[j], t - 2 * a[j] * h) for j in range(count)]
    published = np.exp(h) * x + sum(
        h / count * torch.exp((1 - a[j]) * h)[:, None] * scores[j] for j in range(count)
    )
    found = solve_blocks(chain, blocks)
    torch.testing.assert_close(found.state.params["x"], published, rtol=1e-12, atol=1e-12)
    assert (found.stats.num_rounds, found.stats.num_drifts) == (4, 10)


@pytest.mark.parametrize("form", ["ode", "sde"])
def test_parallel_midpoints_are_the_sequential_chain_bit_for_bit(form: str) -> None:
    """The midpoints of a sweep are known before any of their scores, to blocks and to the sliding window."""
    times = [[4.0, 3.0, 2.0], [2.0, 1.0, 0.3]]
    chain, blocks = midpoint_chain(
        TARGET.score, gaussian((5, 3), 0, F64), times, form=form, midpoints=6, sweeps=2,
        corrector=Corrector(num_steps=2, sweeps=1, midpoints=3),
    )  # fmt: skip
    plain = dp.solve_sequential(chain, len(chain.steps))
    swept = solve_blocks(chain, blocks, evaluator="serial")
    assert equal(swept.state, plain.state)
    sliding = dp.solve(chain, len(chain.steps), window=6, tolerance=0.0)
    assert equal(sliding.state, plain.state)
    assert sliding.stats.num_rounds < len(chain.steps) / 2
    fused = solve_blocks(chain, blocks)
    torch.testing.assert_close(fused.state.params["x"], plain.state.params["x"], rtol=1e-10, atol=1e-10)


def flow_error(count: int, options: dict[str, Any], draws: int = 400) -> float:
    """Root mean square distance to the exact flow from x = 1.5 at time 3 to time 0.2, over the midpoints."""
    x = torch.full((draws, 3), 1.5, dtype=F64)
    times = [[3.0 - 2.8 * i / count for i in range(count + 1)]]
    chain, blocks = midpoint_chain(TARGET.score, x, times, **options)
    found = solve_blocks(chain, blocks).state.params["x"]
    (m0, v0), (m1, v1) = (TARGET.noised(torch.tensor(t, dtype=F64)) for t in (3.0, 0.2))
    exact = m1[0, 0] + (1.5 - m0[0, 0]) * (v1[0, 0] / v0[0, 0]).sqrt()
    return float((found - exact).square().mean().sqrt())


def test_half_the_step_is_less_than_half_the_error() -> None:
    """Order 3/2 for midpoints that are drawn anew in each step, and for R strata of one step."""
    order = np.log2(flow_error(20, {}) / flow_error(40, {}))
    assert 1.3 < order < 1.75
    strata: Callable[[int], float] = lambda r: flow_error(4, {"midpoints": r, "sweeps": 12})  # noqa: E731
    assert 1.2 < np.log2(strata(8) / strata(16)) < 1.8


def test_midpoints_of_a_step_depend_on_seed_and_step_alone() -> None:
    def a(seed: int, key: int) -> Tensor:
        steps, _ = randomized_midpoint_step(ReverseOU(0.0), 2.0, 0.7, n=4, seed=seed, key=key, midpoints=2)
        return steps[0].plan.a  # type: ignore[attr-defined]

    assert torch.equal(a(1, 2), a(1, 2)) and not torch.equal(a(1, 2), a(1, 3))
    assert not torch.equal(a(1, 2), a(2, 2))
    assert bool(((a(0, 0)[0] < 0.5) & (a(0, 0)[1] >= 0.5)).all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"midpoints": 0}, "midpoints must be >= 1, got 0"),
        ({"sweeps": -1}, "sweeps must be >= 0, got -1"),
        ({"form": "x"}, "form must be one of"),
    ],
)
def test_wrong_input_is_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        midpoint_chain(TARGET.score, torch.zeros(1, 3), [[1.0, 0.5]], **options)
