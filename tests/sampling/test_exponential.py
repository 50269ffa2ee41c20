"""One-score integrators against the equations they integrate, on Gaussian targets without sampling error."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.sampling.exponential import AffineStep, ddim, euler, exponential
from dreamprop.sampling.gaussian_law import gaussian_law
from dreamprop.sampling.langevin import Langevin, UnderdampedLangevin
from dreamprop.sampling.linear_sde import LinearSDE
from dreamprop.sampling.mixture import GaussianMixture
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU, alpha_bar, sigma
from dreamprop.sampling.score_chain import ScoreChain

from .draws import seeded

SDES = {
    "reverse SDE": (ReverseOU(1.0), [[0.5]], [1.0], [1.0]),
    "churn": (ReverseOU(0.3), [[0.5]], [0.65], [0.3**0.5]),
    "ODE": (ReverseOU(0.0), [[0.5]], [0.5], [0.0]),
    "Langevin": (Langevin(), [[0.0]], [1.0], [2.0**0.5]),
    "underdamped": (UnderdampedLangevin(3.0), [[0.0, 1.0], [0.0, -3.0]], [0.0, 1.0], [0.0, 6.0**0.5]),
}
"""Each with its A, b and g."""
F64 = torch.float64


def square(rows: list[list[Tensor]], size: int) -> Tensor:
    found = torch.zeros(size, size, dtype=F64)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.stack(row)
    return found


@pytest.mark.parametrize("h", [1e-5, 0.03, 2.0])
@pytest.mark.parametrize("name", SDES)
def test_the_coefficients_solve_the_linear_sde(name: str, h: float) -> None:
    """Against matrix exponentials: e^{Ah}, its integral, and Van Loan's formula for the covariance."""
    sde, a, b, g = SDES[name]
    length, size = torch.tensor(h, dtype=F64), len(b)
    A, B, G = (torch.tensor(v, dtype=F64) for v in (a, b, g))
    close = {"rtol": 1e-9, "atol": 1e-9 * h}
    torch.testing.assert_close(square(sde.propagator(length), size), torch.matrix_exp(A * h), **close)
    torch.testing.assert_close(torch.stack(sde.kernel(length)), torch.matrix_exp(A * h) @ B, **close)
    augmented = torch.zeros(size + 1, size + 1, dtype=F64)
    augmented[:size, :size], augmented[:size, size] = A, B
    torch.testing.assert_close(
        torch.stack(sde.forced(length)), torch.matrix_exp(augmented * h)[:size, size], **close
    )
    van_loan = torch.zeros(2 * size, 2 * size, dtype=F64)
    van_loan[:size, :size], van_loan[:size, size:], van_loan[size:, size:] = -A, torch.outer(G, G), A.T
    blocks = torch.matrix_exp(van_loan * h)
    spread = square(sde.spread(length), size)
    torch.testing.assert_close(spread @ spread.T, blocks[size:, size:].T @ blocks[:size, size:], **close)


@pytest.mark.parametrize("name", SDES)
def test_the_exponential_integrator_is_exact_for_a_constant_score(name: str) -> None:
    """One step of length 1 has the law of four steps."""
    sde = SDES[name][0]
    constant = torch.tensor([0.7, -2.0], dtype=F64)

    def chain(count: int) -> ScoreChain:
        steps = [exponential(sde, 1.0, 1 / count, refresh=i == 0) for i in range(count)]
        return ScoreChain(lambda x, t: constant.expand_as(x), steps, torch.zeros(1, 2, dtype=F64))

    one, four = (gaussian_law(chain(n), lambda c, n=n: dp.solve_sequential(c, n)) for n in (1, 4))
    torch.testing.assert_close(one[0], four[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one[1], four[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_has_the_noise_level_it_goes_to(eta: float) -> None:
    """Where the prediction is right, data and noise come out in the shares of the later time."""
    x0, x1, t, later = (
        seeded(3, 2),
        seeded(3, 2, seed=1),
        torch.tensor(2.0).double(),
        torch.tensor(0.3).double(),
    )
    step = ddim(ReverseOU(eta), float(t), float(t - later))
    sample = alpha_bar(t).sqrt() * x0 + sigma(t) * x1
    quiet = step.update({"x": sample}, -x1 / sigma(t), lambda stream, offset: torch.zeros_like(x0))["x"]
    loud = step.update({"x": sample}, -x1 / sigma(t), lambda stream, offset: torch.ones_like(x0))["x"]
    fresh = (loud - quiet)[0, 0]
    left = torch.sqrt(sigma(later) ** 2 - fresh**2)
    torch.testing.assert_close(quiet, alpha_bar(later).sqrt() * x0 + left * x1, rtol=1e-12, atol=1e-12)
    posterior = sigma(later) ** 2 / sigma(t) ** 2 * (1 - torch.exp(later - t))
    torch.testing.assert_close(fresh, eta * posterior.sqrt(), rtol=1e-12, atol=1e-12)


def test_ddim_is_exact_where_the_predicted_noise_is_constant() -> None:
    x, eps, t, later = seeded(3, 2), seeded(3, 2, seed=1), torch.tensor(2.0), torch.tensor(0.3)
    step = ddim(ReverseOU(0.0), float(t), float(t - later))
    x0 = (x - sigma(t) * eps) / alpha_bar(t).sqrt()
    found = step.update({"x": x}, -eps / sigma(t), lambda stream, offset: x)["x"]
    torch.testing.assert_close(found, alpha_bar(later).sqrt() * x0 + sigma(later) * eps, rtol=1e-6, atol=1e-6)


TARGET = GaussianMixture(
    torch.tensor([[0.0, 1.0, -2.0]], dtype=F64),
    torch.tensor([[0.2, 1.0, 3.0]], dtype=F64),
    torch.ones(1, dtype=F64),
)
INTEGRATORS: dict[str, Callable[[float, float], AffineStep]] = {
    "exponential, SDE": lambda t, h: exponential(ReverseOU(1.0), t, h),
    "exponential, ODE": lambda t, h: exponential(ReverseOU(0.0), t, h),
    "Euler, SDE": lambda t, h: euler(ReverseOU(1.0), t, h),
    "Euler, ODE": lambda t, h: euler(ReverseOU(0.0), t, h),
    "DDIM": lambda t, h: ddim(ReverseOU(0.0), t, h),
    "DDIM, eta 1": lambda t, h: ddim(ReverseOU(1.0), t, h),
}


def errors(make: Callable[[float, float], AffineStep], count: int) -> Tensor:
    """Of mean and variance at time 0.1, from the exact law at time 3.1."""
    h = 3.0 / count
    steps = [make(3.1 - h * i, h) for i in range(count)]
    chain = ScoreChain(TARGET.score, steps, torch.zeros(1, 3, dtype=F64))
    begin, end = (TARGET.noised(torch.tensor(t, dtype=F64)) for t in (3.1, 0.1))
    # each coordinate starts from a law of its own
    found = [
        gaussian_law(
            chain, lambda c: dp.solve_sequential(c, count), float(begin[0][0, 0, i]), float(begin[1][0, 0, i])
        )
        for i in range(3)
    ]
    means, variances = (torch.stack([found[i][k][i] for i in range(3)]) for k in (0, 1))
    return torch.cat([means - end[0][0, 0], variances - end[1][0, 0]]).abs()


@pytest.mark.parametrize("name", INTEGRATORS)
def test_half_the_step_is_half_the_error(name: str) -> None:
    coarse, fine = (errors(INTEGRATORS[name], n).max() for n in (80, 160))
    assert 1.8 < coarse / fine < 2.25 and fine < 0.06


def test_mean_and_variance_follow_the_recursion_of_a_linear_score() -> None:
    """With s = (m_t - x)/v_t a step is x' = (P - f/v) x + f m/v + C xi; the law is that recursion's."""
    grid = torch.linspace(3.1, 0.1, 13, dtype=F64)
    mean, variance = torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)
    for t, later in itertools.pairwise(grid):
        h = t - later
        m, v = (part[0, 0] for part in TARGET.noised(t))
        force = 2 * torch.expm1(h / 2)
        factor = torch.exp(h / 2) - force / v
        mean, variance = factor * mean + force * m / v, factor**2 * variance + torch.expm1(h)
    times = grid.tolist()
    steps = [exponential(ReverseOU(), t, t - u) for t, u in itertools.pairwise(times)]
    chain = ScoreChain(TARGET.score, steps, torch.zeros(1, 3, dtype=F64))
    found = gaussian_law(chain, lambda c: dp.solve_sequential(c, len(steps)))
    torch.testing.assert_close(found[0], mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found[1], variance, rtol=1e-12, atol=1e-13)


def test_every_noise_of_the_family_has_the_same_law() -> None:
    """The marginals of the reversed process do not depend on eta."""
    laws = []
    for eta in (0.0, 0.5, 1.0, 2.0):
        sde: LinearSDE = ReverseOU(eta)
        steps = [exponential(sde, 3.0 - 2.9 * i / 400, 2.9 / 400) for i in range(400)]
        chain = ScoreChain(TARGET.score, steps, torch.zeros(1, 3, dtype=F64))
        laws.append(gaussian_law(chain, lambda c: dp.solve_sequential(c, 400), 0.0, 1.0)[1][1])
    torch.testing.assert_close(torch.stack(laws), torch.ones(4, dtype=F64), rtol=0.02, atol=0)


@pytest.mark.parametrize("eta", [-1.0, float("nan")])
def test_wrong_noise_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="eta must be >= 0"):
        ReverseOU(eta)
