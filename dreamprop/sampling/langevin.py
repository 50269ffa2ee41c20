"""Langevin dynamics: chains whose stationary law is a target whose score is known.

Over- and underdamped, as linear SDEs with the score for their force, so that the exponential integrator and randomised
midpoints, one after another or in parallel, are the same code as for diffusion. For a log-concave target they are the
samplers of Shen & Lee 2019 (arXiv:1909.05503) and of parallel Picard sweeps (arXiv:2401.09016); at a noise level of a
diffusion model they are the corrector of arXiv:2405.15986 and arXiv:2406.00924.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamprop.sampling.linear_sde import POSITION, VELOCITY

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))
"""Gauss-Legendre on [-1, 1]: exponentials of up to a few units are integrated to rounding, without the cancellation of
the closed forms at small steps."""


@dataclass(frozen=True)
class Langevin:
    """dx = s(x) dtau + sqrt(2) dW: A = 0, b = 1, g = sqrt(2); stationary law exp(log p)."""

    components: tuple[str, ...] = (POSITION,)
    """The position alone."""

    def propagator(self, h: Tensor) -> list[list[Tensor]]:
        """1."""
        return [[torch.ones_like(h)]]

    def kernel(self, u: Tensor) -> list[Tensor]:
        """1."""
        return [torch.ones_like(u)]

    def forced(self, h: Tensor) -> list[Tensor]:
        """h."""
        return [h]

    def spread(self, h: Tensor) -> list[list[Tensor]]:
        """sqrt(2 h)."""
        return [[torch.sqrt(2 * h)]]


@dataclass(frozen=True)
class UnderdampedLangevin:
    """dx = v dtau, dv = (-gamma v + s(x)) dtau + sqrt(2 gamma) dW; stationary law exp(log p(x) - |v|^2 / 2).

    With c(u) = (1 - e^{-gamma u}) / gamma:

        e^{A u} = [[1, c(u)], [0, e^{-gamma u}]],   k(u) = [c(u), e^{-gamma u}],   F(h) = [(h - c(h)) / gamma, c(h)]

    and the noise that acts over h has the covariance 2 gamma int_0^h k(u) k(u)^T du.
    """

    friction: float = 2.0
    """gamma: 2 sqrt(L) is the usual choice where the score has the Lipschitz constant L."""
    components: tuple[str, ...] = (POSITION, VELOCITY)
    """Position and velocity."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.friction) and self.friction > 0):
            raise ValueError(f"friction must be > 0, got {self.friction}; use 2 sqrt(L) of the score")

    def _c(self, u: Tensor) -> Tensor:
        return -torch.expm1(-self.friction * u) / self.friction

    def propagator(self, h: Tensor) -> list[list[Tensor]]:
        """[[1, c(h)], [0, e^{-gamma h}]]."""
        one = torch.ones_like(h)
        return [[one, self._c(h)], [torch.zeros_like(h), torch.exp(-self.friction * h)]]

    def kernel(self, u: Tensor) -> list[Tensor]:
        """[c(u), e^{-gamma u}]."""
        return [self._c(u), torch.exp(-self.friction * u)]

    def forced(self, h: Tensor) -> list[Tensor]:
        """[int_0^h c(u) du, c(h)]."""
        nodes, weights = _nodes(h)
        return [(weights * self._c(nodes)).sum(-1), self._c(h)]

    def spread(self, h: Tensor) -> list[list[Tensor]]:
        """The Cholesky factor of 2 gamma int_0^h k(u) k(u)^T du."""
        nodes, weights = _nodes(h)
        x, v = self.kernel(nodes)
        xx, xv, vv = (2 * self.friction * (weights * pair).sum(-1) for pair in (x * x, x * v, v * v))
        first = torch.sqrt(xx)
        mixed = torch.where(first > 0, xv / first, 0.0)
        return [[first], [mixed, torch.sqrt(torch.clamp(vv - mixed * mixed, min=0))]]


def _nodes(h: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral over [0, h], [..., 16]."""
    half = h[..., None] / 2
    return half * (NODES + 1), half * WEIGHTS
