"""Mixtures are what they say: their score is the gradient of their density, their moments those of their points."""

import math

import pytest
import torch

from dreamprop.rng import generator
from dreamprop.sampling.mixture import GaussianMixture, gaussian_kl, sliced_w2

from .draws import seeded


def mixture(components: int = 3, dim: int = 4) -> GaussianMixture:
    g = generator(0, 0, "mixture")
    variances = 0.1 + torch.rand(components, dim, generator=g, dtype=torch.float64)
    return GaussianMixture(2 * seeded(components, dim), variances, seeded(components, seed=1).softmax(0))


@pytest.mark.parametrize("components", [1, 3])
def test_the_score_is_the_gradient_of_the_log_density_at_every_time(components: int) -> None:
    target = mixture(components)
    x, t = seeded(20, 4, seed=2).requires_grad_(), torch.linspace(0, 5, 20, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(target.log_prob(x, t).sum(), x)
    torch.testing.assert_close(target.score(x, t), gradient, atol=1e-10, rtol=1e-10)


def test_the_density_is_that_of_the_noised_data() -> None:
    """p_t is the data's law, shrunk, convolved with a Gaussian: in one dimension by quadrature."""
    target, t = mixture(2, 1), torch.tensor(0.7, dtype=torch.float64)
    y = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    kept = torch.exp(-t)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    normal = torch.exp(-((x[:, None] - kept.sqrt() * y) ** 2) / (2 * (1 - kept)))
    normal = normal / torch.sqrt(2 * math.pi * (1 - kept))
    data = target.log_prob(y[:, None], torch.zeros((), dtype=torch.float64)).exp()
    convolved = torch.trapezoid(normal * data, y, dim=-1)
    torch.testing.assert_close(target.log_prob(x[:, None], t).exp(), convolved, rtol=1e-9, atol=1e-12)


def test_points_have_the_moments() -> None:
    target = mixture()
    mean, covariance = target.moments()
    points = target.sample(200_000, generator(0, 0, "points"))
    torch.testing.assert_close(points.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(points.T.cov(), covariance, atol=0.06, rtol=0)


def test_distances_of_gaussians() -> None:
    one, two = torch.tensor([0.3], dtype=torch.float64), torch.tensor([1.7], dtype=torch.float64)
    assert gaussian_kl(one, two, one, two).item() == 0
    x = torch.linspace(-20, 20, 20001, dtype=torch.float64)
    p = torch.distributions.Normal(0.3, 1.7**0.5).log_prob(x)
    q = torch.distributions.Normal(-0.4, 0.6**0.5).log_prob(x)
    kl = torch.trapezoid(p.exp() * (p - q), x)
    torch.testing.assert_close(gaussian_kl(one, two, one - 0.7, two - 1.1)[0], kl, rtol=1e-6, atol=0)
    a = seeded(1000, 2)
    moved = sliced_w2(a, a + 3.0, 1000, generator(0, 0, "sliced"))
    assert moved.item() == pytest.approx(
        3.0, rel=0.05
    )  # 3 sqrt(2) cos(angle), root mean square over directions


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variances": torch.ones(2, 3)}, "alike"),
        ({"weights": torch.ones(3)}, "sum 1"),
        ({"variances": torch.zeros(3, 4)}, "> 0"),
    ],
)
def test_wrong_mixtures_are_refused(change: dict[str, torch.Tensor], words: str) -> None:
    good = {"means": torch.zeros(3, 4), "variances": torch.ones(3, 4), "weights": torch.ones(3) / 3}
    with pytest.raises(ValueError, match=words):
        GaussianMixture(**(good | change))
