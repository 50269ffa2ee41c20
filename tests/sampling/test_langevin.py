"""Langevin dynamics on Gaussian targets, whose discrete stationary laws are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.sampling.corrector import langevin_chain
from dreamprop.sampling.gaussian_law import gaussian_law
from dreamprop.sampling.langevin import Langevin, UnderdampedLangevin
from dreamprop.sampling.linear_sde import LinearSDE
from dreamprop.sampling.picard_blocks import solve_blocks
from dreamprop.sampling.score_chain import gaussian
from dreamprop.state import equal

F64 = torch.float64
VARIANCE = torch.tensor([0.5, 1.0, 2.0], dtype=F64)


def score(x: Tensor, t: Tensor) -> Tensor:
    """Of N(0, diag(VARIANCE))."""
    return -x / VARIANCE


def stationary(sde: LinearSDE, h: float) -> Tensor:
    """Variance of the position that the exponential integrator keeps: S = M S M^T + C C^T with M = P - F e_x^T / v."""
    length, found = torch.tensor(h, dtype=F64), []
    c = len(sde.components)
    P = torch.stack([torch.stack(row) for row in sde.propagator(length)])
    C = torch.zeros(c, c, dtype=F64)
    for i, row in enumerate(sde.spread(length)):
        C[i, : i + 1] = torch.stack(row)
    for v in VARIANCE:
        M = P.clone()
        M[:, 0] -= torch.stack(sde.forced(length)) / v
        S = torch.linalg.solve(torch.eye(c * c, dtype=F64) - torch.kron(M, M), (C @ C.T).reshape(-1))
        found.append(S[0])
    return torch.stack(found)


@pytest.mark.parametrize("sde", [Langevin(), UnderdampedLangevin(2.0)], ids=["over", "under"])
def test_the_chain_comes_to_its_stationary_law(sde: LinearSDE) -> None:
    h, num_steps = 0.2, 300
    if isinstance(sde, Langevin):  # x' = (1 - h/v) x + sqrt(2 h) xi
        torch.testing.assert_close(stationary(sde, h), VARIANCE / (1 - h / (2 * VARIANCE)))
    chain, _ = langevin_chain(score, torch.zeros(1, 3, dtype=F64), sde, h, num_steps)
    mean, variance, _ = gaussian_law(chain, lambda c: dp.solve_sequential(c, num_steps), variance=4.0)
    torch.testing.assert_close(variance, stationary(sde, h), rtol=1e-6, atol=0)
    assert mean.abs().max() < 1e-6
    bias = (variance - VARIANCE).abs().max()
    assert 0 < bias < 0.15


@pytest.mark.parametrize("sde", [Langevin(), UnderdampedLangevin(2.0)], ids=["over", "under"])
def test_as_many_sweeps_as_steps_are_the_sequential_chain_bit_for_bit(sde: LinearSDE) -> None:
    x = gaussian((6, 3), 0, F64)
    chain, blocks = langevin_chain(score, x, sde, 0.1, 20, block=8, sweeps=8)
    assert [block.num_steps for block in blocks] == [8, 8, 4]
    plain = dp.solve_sequential(chain, 20)
    assert equal(solve_blocks(chain, blocks, evaluator="serial").state, plain.state)
    assert equal(dp.solve(chain, 20, window=6, tolerance=0.0).state, plain.state)
    chain, blocks = langevin_chain(score, x, sde, 0.1, 20, block=8, sweeps=5)
    few = solve_blocks(chain, blocks)
    assert few.stats.num_rounds == 5 + 5 + 4
    torch.testing.assert_close(few.state.params["x"], plain.state.params["x"], rtol=0, atol=2e-2)
    assert not equal(few.state, plain.state)


@pytest.mark.parametrize("sde", [Langevin(), UnderdampedLangevin(2.0)], ids=["over", "under"])
def test_parallel_midpoints_have_less_bias_than_one_score_a_step(sde: LinearSDE) -> None:
    """In four rounds a step, where the exponential integrator would take steps of a quarter."""
    h, num_steps = 0.4, 40
    x = torch.zeros(4000, 3, dtype=F64)
    chain, blocks = langevin_chain(score, x, sde, h, num_steps, midpoints=4, sweeps=2)
    found = solve_blocks(chain, blocks)
    assert found.stats.num_rounds == 4 * num_steps
    variance = found.state.params["x"].var(0)
    noise = VARIANCE * (2 / 4000) ** 0.5
    bias = (stationary(sde, h / 4) - VARIANCE).abs()
    assert bool(((variance - VARIANCE).abs() < torch.maximum(3 * noise, bias)).all())


@pytest.mark.parametrize(("friction", "words"), [(0.0, "friction must be > 0"), (float("inf"), "friction")])
def test_wrong_friction_is_refused(friction: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UnderdampedLangevin(friction)


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="h must be > 0, got 0"):
        langevin_chain(score, torch.zeros(1, 3), Langevin(), 0.0, 4)
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        langevin_chain(score, torch.zeros(1, 3), Langevin(), 0.1, 0)
