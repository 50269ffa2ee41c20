"""Gaussian mixtures whose score is known at every noise level: what samplers are measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.sampling.ornstein_uhlenbeck import alpha_bar


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k w_k N(mu_k, diag(v_k)) in d dimensions, and what the Ornstein-Uhlenbeck process makes of it.

    Noise maps a component to a component, mu_k(t) = e^{-t/2} mu_k and v_k(t) = e^{-t} v_k + 1 - e^{-t}, so with the
    responsibilities r_k(x, t) = softmax_k [log w_k + log N(x; mu_k(t), v_k(t))]

        grad log p_t(x) = sum_k r_k(x, t) (mu_k(t) - x) / v_k(t).

    Every integrator here commutes with rotations, so diagonal covariances lose no generality for a single Gaussian.
    """

    means: Tensor
    """mu_k, [K, d]."""
    variances: Tensor
    """v_k, [K, d]; > 0."""
    weights: Tensor
    """w_k, [K]; > 0 with the sum 1."""

    def __post_init__(self) -> None:
        if self.means.dim() != 2 or self.variances.shape != self.means.shape:
            raise ValueError(
                f"means and variances must be [K, d] alike, got {tuple(self.means.shape)} and "
                f"{tuple(self.variances.shape)}; give a row for each component"
            )
        if self.weights.shape != self.means.shape[:1] or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be [K] with the sum 1, got {self.weights.tolist()}; divide by it")
        if not (bool((self.variances > 0).all()) and bool((self.weights > 0).all())):
            raise ValueError("variances and weights must be > 0, got one that is not; drop such components")

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[1]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x).

        Args:
            x: [N, d].
            t: [N] Ornstein-Uhlenbeck time of each row, or [] of all.
        """
        means, variances = self.noised(t.to(x))
        towards = (means - x[:, None]) / variances
        if len(self.weights) == 1:
            return towards[:, 0]
        return (self._log_joint(x, means, variances).softmax(-1)[..., None] * towards).sum(1)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x) [N]; arguments as for ``score``."""
        return self._log_joint(x, *self.noised(t.to(x))).logsumexp(-1)

    def noised(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """mu_k(t) and v_k(t), [N or 1, K, d] each."""
        kept = alpha_bar(t.reshape(-1, 1, 1))
        return kept.sqrt() * self.means.to(t), kept * self.variances.to(t) + 1 - kept

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [d] and covariance [d, d] of the data."""
        mean = self.weights @ self.means
        off = self.means - mean
        return mean, torch.diag(self.weights @ self.variances) + (self.weights[:, None] * off).T @ off

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n points of the data [n, d]."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + self.variances[chosen].sqrt() * noise

    def _log_joint(self, x: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """log [w_k N(x; mu_k(t), v_k(t))], [N, K]."""
        squares = (x[:, None] - means).square() / variances + variances.log()
        return self.weights.to(x).log() - 0.5 * (squares.sum(-1) + self.dim * math.log(2 * math.pi))


def gaussian_kl(mean: Tensor, variance: Tensor, target_mean: Tensor, target_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(target_mean, target_variance)) of each independent coordinate."""
    ratio = variance / target_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - target_mean).square() / target_variance)


def sliced_w2(a: Tensor, b: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """Sliced 2-Wasserstein distance of two samples [n, d]: the root mean square, over random directions, of the
    distance of what is seen along one."""
    along = torch.randn(a.shape[1], directions, generator=generator, dtype=a.dtype)
    along = along / along.norm(dim=0)
    return ((a @ along).sort(0).values - (b @ along).sort(0).values).square().mean().sqrt()
