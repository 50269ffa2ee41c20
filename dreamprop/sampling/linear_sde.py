"""Linear stochastic differential equations driven by a score, and all that an integrator asks of them.

    dz = (A z + b s(x, t)) dtau + g dW

with constants A [c, c], b [c], g [c] for the c components of z (position x alone, or position and velocity). With the
score held or sampled, everything else is exact: with k(u) = e^{A u} b,

    z(tau + h) = e^{A h} z(tau) + int_0^h k(h - u) s(x(tau + u)) du + C(h) xi,     xi ~ N(0, I)

by variation of constants, where C C^T = int_0^h e^{A u} g g^T e^{A^T u} du.

Coefficients are float64 tensors on the CPU with the shape of h: none, or [n], one for each particle.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

POSITION, VELOCITY = "x", "x/velocity"
"""Names of the components in a state: a parameter, which a score sees, and a moment of it."""


class LinearSDE(Protocol):
    """A linear SDE with a score for its force."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the c components of z, the position first."""
        ...

    def propagator(self, h: Tensor) -> list[list[Tensor]]:
        """e^{A h}, [c, c]."""
        ...

    def kernel(self, u: Tensor) -> list[Tensor]:
        """k(u) = e^{A u} b, [c]: what a score that acted u ago has become."""
        ...

    def forced(self, h: Tensor) -> list[Tensor]:
        """F(h) = int_0^h k(u) du, [c]: what a score that is held does in h."""
        ...

    def spread(self, h: Tensor) -> list[list[Tensor]]:
        """C(h), lower-triangular [c, c] with row i of i + 1 entries; [] where there is no noise."""
        ...


def scaled(coefficient: Tensor | float, x: Tensor) -> Tensor:
    """A coefficient times x [n, ...]: one for all particles, or [n] one for each."""
    if not isinstance(coefficient, Tensor):
        return x * coefficient
    if coefficient.dim() == 0:
        return x * float(coefficient)
    return x * coefficient.to(x).view(-1, *[1] * (x.dim() - 1))


def product(row: list[Tensor], values: list[Tensor]) -> Tensor:
    """The sum of coefficients times values, in order, so that it rounds alike wherever it is taken."""
    total = scaled(row[0], values[0])
    for coefficient, value in zip(row[1:], values[1:], strict=False):
        total = total + scaled(coefficient, value)
    return total
