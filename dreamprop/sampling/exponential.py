"""One-score integrators of a linear SDE: the exponential integrator, Euler-Maruyama and DDIM.

Each makes the next values of a step from time t to t - h as

    z' = P z + f s(x, t) + C xi,     xi ~ N(0, I).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.sampling.linear_sde import VELOCITY, LinearSDE, product, scaled
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU, alpha_bar, sigma
from dreamprop.sampling.score_chain import Draw, Values


@dataclass(frozen=True, eq=False)
class AffineStep:
    """A step that is affine in the state, the score and the noise."""

    components: tuple[str, ...]
    """Names of the c components of z."""
    time: Tensor
    """Where the score is evaluated, []."""
    propagator: list[list[Tensor]]
    """P [c, c]."""
    forced: list[Tensor]
    """f [c]."""
    spread: list[list[Tensor]]
    """C, lower-triangular; [] without noise."""
    refresh: bool = False
    """Whether the velocity is drawn anew, from its stationary law, before the step."""

    def update(self, z: Values, score: Tensor, draw: Draw) -> Values:
        """P z + f s + C xi."""
        z = z | {VELOCITY: draw("velocity", 0)} if self.refresh else z
        values = [z[name] for name in self.components]
        noise = [draw(f"noise/{name}", 0) for name in self.components] if self.spread else []
        found: Values = {}
        for i, name in enumerate(self.components):
            value = product(self.propagator[i], values) + scaled(self.forced[i], score)
            found[name] = value + product(self.spread[i], noise) if noise else value
        return found

    def predict(self, z: Values, draw: Draw) -> Values:
        """The values as they are: the first guess of a Picard iteration in arXiv:2405.15986."""
        return z


def exponential(sde: LinearSDE, time: float, h: float, refresh: bool = False) -> AffineStep:
    """The exponential integrator: exact where the score is constant over the step.

        z' = e^{A h} z + F(h) s(x, t) + C(h) xi

    For the reversed Ornstein-Uhlenbeck process that is arXiv:2405.15986's

        x' = e^{h/2} x + (1 + eta) (e^{h/2} - 1) s + sqrt(eta (e^h - 1)) xi,

    2 (e^{h/2} - 1) for the SDE (eta = 1) and half of it for the ODE (eta = 0).

    Args:
        sde: what is integrated.
        time: Ornstein-Uhlenbeck time of the score; 0 for a target that knows of no noise.
        h: length of the step, in the SDE's own time.
        refresh: whether to draw the velocity anew before it.
    """
    length = _length(h)
    parts = (sde.propagator(length), sde.forced(length), sde.spread(length))
    return AffineStep(sde.components, _time(time), *parts, refresh=refresh)


def euler(sde: ReverseOU, time: float, h: float) -> AffineStep:
    """Euler-Maruyama: x' = x + h (x/2 + (1 + eta)/2 s) + sqrt(eta h) xi; for Langevin it is the exponential integrator.

    Args:
        sde: the reversed Ornstein-Uhlenbeck process.
        time: of the score.
        h: length of the step.
    """
    length = _length(h)
    spread = [[torch.sqrt(sde.eta * length)]] if sde.eta else []
    force = [length * (1 + sde.eta) / 2]
    return AffineStep(sde.components, _time(time), [[1 + length / 2]], force, spread)


def ddim(sde: ReverseOU, time: float, h: float) -> AffineStep:
    """DDIM (arXiv:2010.02502, eq. 12 and 16): the predicted noise eps = -sigma_t s is held over the step, where the
    exponential integrator holds the score; so steps may be as long as the time that is left, and leave no noise behind.

        x' = sqrt(a'/a) x + (sqrt(a'/a) sigma_t^2 - sigma_t sqrt(sigma_t'^2 - v^2)) s(x, t) + v xi
        v = eta (sigma_t' / sigma_t) sqrt(1 - a/a'),     a = alpha_bar(t), t' = t - h

    from x' = sqrt(a') x0 + sqrt(sigma_t'^2 - v^2) eps + v xi with x0 = (x - sigma_t eps) / sqrt(a). eta = 0 is the
    probability flow, eta = 1 DDPM's posterior.

    Args:
        sde: the reversed Ornstein-Uhlenbeck process, for its eta in [0, 1].
        time: of the score.
        h: length of the step.

    Raises:
        ValueError: eta is above 1.
    """
    if sde.eta > 1:
        raise ValueError(f"eta of ddim must be <= 1, got {sde.eta}; use the exponential integrator")
    t = _time(time)
    later = t - _length(h)
    kept = alpha_bar(t) / alpha_bar(later)
    v = sde.eta * sigma(later) / sigma(t) * torch.sqrt(1 - kept)
    force = torch.sqrt(1 / kept) * sigma(t) ** 2 - sigma(t) * torch.sqrt(sigma(later) ** 2 - v**2)
    return AffineStep(sde.components, t, [[torch.sqrt(1 / kept)]], [force], [[v]] if sde.eta else [])


def decreasing(times: Sequence[float]) -> list[float]:
    """Times of a grid from noise to data.

    Raises:
        ValueError: there are fewer than two, or they do not fall, or one is below 0.
    """
    found = [float(t) for t in times]
    falls = all(b < a for a, b in itertools.pairwise(found))
    if len(found) < 2 or not falls or not (math.isfinite(found[0]) and found[-1] >= 0):
        raise ValueError(f"times must fall from the noisiest to one >= 0, got {found[:5]}; sort them so")
    return found


def _time(t: float) -> Tensor:
    return torch.tensor(float(t), dtype=torch.float64)


def _length(h: float) -> Tensor:
    if not (math.isfinite(h) and h > 0):
        raise ValueError(f"h must be > 0, got {h}; give the length of the step")
    return torch.tensor(float(h), dtype=torch.float64)
