"""Adan, adaptive Nesterov momentum, arXiv:2208.06677, in the form of its authors' code and threestudio."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dreamprop.optim.base import Grouped, ParamGroup, Tensors
from dreamprop.optim.moments import moment_key
from dreamprop.schedule import Schedule
from dreamprop.utils.foreach import blocks, like


class Adan(Grouped):
    """Adam with a third mean, of the change of the gradient, arXiv:2208.06677, algorithm 1.

    ``m' = b1 m + (1-b1) g;  d' = b2 d + (1-b2) (g - g_old);  n' = b3 n + (1-b3) (g + b2 (g - g_old))^2;
    p' = (p - lr (m_hat + b2 d_hat) / (sqrt(n_hat) + eps)) / (1 + lr weight_decay)``

    Hats are bias-corrected as in Adam. The betas are decays, 1 minus the paper's. The first update takes
    ``g_old = g``.

    Args:
        groups: parameters with their learning rates; options ``beta1``..``beta3``, ``eps``, ``weight_decay``.
        betas: decay of the three moments.
        eps: added to the denominator.
        weight_decay: proximal, as in the paper.
    """

    moments = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "pre_grad")

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: Schedule = 0.0,
    ) -> None:
        beta1, beta2, beta3 = betas
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {tuple(betas)}; (0.98, 0.92, 0.99) is usual")
        super().__init__(groups, beta1=beta1, beta2=beta2, beta3=beta3, eps=eps, weight_decay=weight_decay)

    def update(self, params: Tensors, moments: Tensors, grads: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments after one step with these gradients, in new memory; `step` counts from 0."""
        self._check(params, moments, grads)
        new_params, (new_moments, count) = dict(params), self._counted(moments, step)
        for names, at in self._groups.values():
            o = at(step)
            bias1, bias2, bias3 = (1 - o[f"beta{i}"] ** (count + 1) for i in (1, 2, 3))
            old = [[params[n] for n in names]] + [
                [moments[moment_key(n, m)] for n in names] for m in self.moments
            ]
            new = [like(ts) for ts in old]
            for _, (g, *pieces) in blocks([grads[n] for n in names], *old, *new):
                g_old = pieces[4]
                p, m, d, n, _ = pieces[5:]
                for source, target in zip((*pieces[:4], g), pieces[5:], strict=True):
                    torch._foreach_copy_(target, source)
                change = torch._foreach_sub(g, g if count == 0 else g_old)
                torch._foreach_lerp_(m, g, 1 - o["beta1"])
                torch._foreach_lerp_(d, change, 1 - o["beta2"])
                torch._foreach_mul_(change, o["beta2"])
                torch._foreach_add_(change, g)
                torch._foreach_mul_(n, o["beta3"])
                torch._foreach_addcmul_(n, change, change, 1 - o["beta3"])
                _descend(p, m, d, n, o, bias1, bias2, bias3)
            new_params.update(zip(names, new[0], strict=True))
            for moment, tensors in zip(self.moments, new[1:], strict=True):
                new_moments.update(zip((moment_key(n, moment) for n in names), tensors, strict=True))
        return new_params, new_moments

    def predict(self, params: Tensors, moments: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """One step as if every running mean stayed what it is; before the first update a copy."""
        self._check(params, moments)
        new_params, (new_moments, count) = dict(params), self._counted(moments, step)
        if count == 0:
            return new_params, new_moments
        kept = self.moments[:3]
        for names, at in self._groups.values():
            o = at(step)
            bias1, bias2, bias3 = biases = [1 - o[f"beta{i}"] ** count for i in (1, 2, 3)]
            growth = [(1 - o[f"beta{i + 1}"] ** (count + 1)) / bias for i, bias in enumerate(biases)]
            old = [[params[n] for n in names]] + [[moments[moment_key(n, m)] for n in names] for m in kept]
            new = [like(ts) for ts in old]
            for _, pieces in blocks(*old, *new):
                for source, target in zip(pieces[:4], pieces[4:], strict=True):
                    torch._foreach_copy_(target, source)
                _descend(pieces[4], pieces[1], pieces[2], pieces[3], o, bias1, bias2, bias3)
                for target, scale in zip(pieces[5:], growth, strict=True):
                    torch._foreach_mul_(target, scale)
            new_params.update(zip(names, new[0], strict=True))
            for moment, tensors in zip(kept, new[1:], strict=True):
                new_moments.update(zip((moment_key(n, moment) for n in names), tensors, strict=True))
        return new_params, new_moments


def _descend(
    p: list[torch.Tensor],
    m: Sequence[torch.Tensor],
    d: Sequence[torch.Tensor],
    n: Sequence[torch.Tensor],
    o: dict[str, float],
    bias1: float,
    bias2: float,
    bias3: float,
) -> None:
    """Move parameters, in place, along ``m_hat + beta2 d_hat``: the last line of the algorithm, decay included."""
    denominator = torch._foreach_sqrt(list(n))
    torch._foreach_div_(denominator, math.sqrt(bias3))
    torch._foreach_add_(denominator, o["eps"])
    torch._foreach_addcdiv_(p, list(m), denominator, -o["lr"] / bias1)
    torch._foreach_addcdiv_(p, list(d), denominator, -o["lr"] * o["beta2"] / bias2)
    if o["weight_decay"] != 0:
        torch._foreach_div_(p, 1 + o["lr"] * o["weight_decay"])
