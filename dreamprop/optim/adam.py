"""Adam and AdamW, as ``torch.optim`` computes them, bit for bit: the same operations in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dreamprop.blocks import Tensors as Many
from dreamprop.blocks import blocks, like
from dreamprop.optim.base import Grouped, ParamGroup, Schedule, Tensors


class Adam(Grouped):
    """``m' = b1 m + (1-b1) g;  v' = b2 v + (1-b2) g^2;  p' = p - lr m_hat / (sqrt(v_hat) + eps)``.

    ``m_hat = m' / (1 - b1^(t+1))`` and ``v_hat`` alike, where t is the step of the state; arXiv:1412.6980,
    algorithm 1.

    Args:
        groups: parameters with their learning rates; options ``beta1``, ``beta2``, ``eps``, ``weight_decay``.
        betas: decay of the two moments.
        eps: added to the denominator.
        weight_decay: added to the gradient, times the parameter.
        amsgrad: divide by the largest second moment so far.
    """

    decoupled = False

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Schedule = 0.0,
        amsgrad: bool = False,
    ) -> None:
        beta1, beta2 = betas
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"betas must lie in [0, 1), got {tuple(betas)}; (0.9, 0.999) is usual")
        super().__init__(groups, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
        self.amsgrad = amsgrad
        self.moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if amsgrad else ("exp_avg", "exp_avg_sq")

    def update(self, params: Tensors, moments: Tensors, grads: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """One step with these gradients."""
        self._check(params, moments, grads)
        new_params, new_moments = dict(params), dict(moments)
        for names, at in self._groups.values():
            o = at(step)
            bias1, bias2 = 1 - o["beta1"] ** (step + 1), 1 - o["beta2"] ** (step + 1)
            old = [[params[n] for n in names]] + [[moments[f"{n}/{m}"] for n in names] for m in self.moments]
            new = [like(ts) for ts in old]
            for _, (grad, *pieces) in blocks([grads[n] for n in names], *old, *new):
                g: Many = grad
                for source, target in zip(pieces[: len(old)], pieces[len(old) :], strict=True):
                    torch._foreach_copy_(target, source)
                p, m, v, *largest = pieces[len(old) :]
                if o["weight_decay"] != 0:
                    if self.decoupled:
                        torch._foreach_mul_(p, 1 - o["lr"] * o["weight_decay"])
                    else:
                        g = torch._foreach_add(g, p, alpha=o["weight_decay"])
                torch._foreach_lerp_(m, g, 1 - o["beta1"])
                torch._foreach_mul_(v, o["beta2"])
                torch._foreach_addcmul_(v, g, g, 1 - o["beta2"])
                if largest:
                    torch._foreach_maximum_(largest[0], v)
                denominator = torch._foreach_sqrt(largest[0] if largest else v)
                torch._foreach_div_(denominator, bias2**0.5)
                torch._foreach_add_(denominator, o["eps"])
                torch._foreach_addcdiv_(p, m, denominator, -(o["lr"] / bias1))
            new_params.update(zip(names, new[0], strict=True))
            for moment, tensors in zip(self.moments, new[1:], strict=True):
                new_moments.update(zip((f"{n}/{moment}" for n in names), tensors, strict=True))
        return new_params, new_moments

    def predict(self, params: Tensors, moments: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """One step as if gradient and squared gradient equalled their running means ``m_hat`` and ``v_hat``.

        Those means then stay what they are, so the moments are only scaled to the bias correction of the next
        step. Before the first update there is no mean, and the prediction is a copy.
        """
        self._check(params, moments)
        new_params, new_moments = dict(params), dict(moments)
        if step == 0:
            return new_params, new_moments
        for names, at in self._groups.values():
            o = at(step)
            bias1, bias2 = 1 - o["beta1"] ** step, 1 - o["beta2"] ** step
            growth = (1 - o["beta1"] ** (step + 1)) / bias1, (1 - o["beta2"] ** (step + 1)) / bias2
            ps, ms, vs = (
                [params[n] for n in names],
                *([moments[f"{n}/{m}"] for n in names] for m in self.moments[:2]),
            )
            tops = [moments[f"{n}/max_exp_avg_sq"] for n in names] if self.amsgrad else vs
            new_ps, new_ms, new_vs = like(ps), like(ms), like(vs)
            for _, (p, m, v, top, new_p, new_m, new_v) in blocks(ps, ms, vs, tops, new_ps, new_ms, new_vs):
                torch._foreach_copy_(new_p, p)
                if self.decoupled and o["weight_decay"] != 0:
                    torch._foreach_mul_(new_p, 1 - o["lr"] * o["weight_decay"])
                # m_hat / (sqrt(v_hat) + eps), with sqrt(1 - b2^t) taken out of the denominator
                denominator = torch._foreach_sqrt(top)
                torch._foreach_add_(denominator, o["eps"] * math.sqrt(bias2))
                torch._foreach_addcdiv_(new_p, m, denominator, -o["lr"] * math.sqrt(bias2) / bias1)
                for source, target, scale in ((m, new_m, growth[0]), (v, new_v, growth[1])):
                    torch._foreach_copy_(target, source)
                    if scale != 1:
                        torch._foreach_mul_(target, scale)
            new_params.update(zip(names, new_ps, strict=True))
            new_moments.update(zip((f"{n}/exp_avg" for n in names), new_ms, strict=True))
            new_moments.update(zip((f"{n}/exp_avg_sq" for n in names), new_vs, strict=True))
        return new_params, new_moments


class AdamW(Adam):
    """Adam after ``p <- (1 - lr weight_decay) p``: decoupled weight decay, arXiv:1711.05101."""

    decoupled = True

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Schedule = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(groups, betas, eps, weight_decay, amsgrad)
