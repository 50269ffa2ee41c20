"""The Ornstein-Uhlenbeck process, the noising of diffusion models in continuous time, and its two reversals.

One convention for the package: data become noise by

    dx = -x/2 dt + dW,     x_t ~ N(sqrt(alpha_bar(t)) x_0, (1 - alpha_bar(t)) I),     alpha_bar(t) = e^{-t}.

The other one in use, dx = -x dt' + sqrt(2) dW (arXiv:2406.00924), is the same process on a clock of half the speed:
t = 2 t'. In reverse, with tau = T - t and the score s(x, t) = grad log p_t(x), the family

    dx = [x/2 + (1 + eta)/2 s(x, T - tau)] dtau + sqrt(eta) dW

has the marginals p_{T - tau} for every eta >= 0 (Fokker-Planck: the terms with eta cancel, eta/2 div(p s) =
eta/2 Laplacian p). eta = 1 is the reverse SDE of arXiv:2405.15986, eta = 0 the probability-flow ODE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.sampling.linear_sde import POSITION


def alpha_bar(t: Tensor) -> Tensor:
    """Share of the data's variance that is left at time t: e^{-t}."""
    return torch.exp(-t)


def sigma(t: Tensor) -> Tensor:
    """Standard deviation of the noise at time t: sqrt(1 - e^{-t})."""
    return torch.sqrt(-torch.expm1(-t))


FORMS = {"sde": 1.0, "ode": 0.0}
"""eta by the name of a form."""


def eta_of(form: str) -> float:
    """The eta of a form.

    Raises:
        ValueError: there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}; use sde")
    return FORMS[form]


@dataclass(frozen=True)
class ReverseOU:
    """The reversed process as a linear SDE: A = 1/2, b = (1 + eta)/2, g = sqrt(eta)."""

    eta: float = 1.0
    """Variance of the noise that is put in anew: 1 the reverse SDE, 0 the probability-flow ODE."""
    components: tuple[str, ...] = (POSITION,)
    """The position alone."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"eta must be >= 0, got {self.eta}; use 1 for the SDE or 0 for the ODE")

    def propagator(self, h: Tensor) -> list[list[Tensor]]:
        """e^{h/2}."""
        return [[torch.exp(h / 2)]]

    def kernel(self, u: Tensor) -> list[Tensor]:
        """(1 + eta)/2 e^{u/2}."""
        return [(1 + self.eta) / 2 * torch.exp(u / 2)]

    def forced(self, h: Tensor) -> list[Tensor]:
        """(1 + eta) (e^{h/2} - 1)."""
        return [(1 + self.eta) * torch.expm1(h / 2)]

    def spread(self, h: Tensor) -> list[list[Tensor]]:
        """sqrt(eta (e^h - 1)), from int_0^h eta e^u du."""
        return [[torch.sqrt(self.eta * torch.expm1(h))]] if self.eta else []
