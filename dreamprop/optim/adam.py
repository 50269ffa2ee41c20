"""Adam and AdamW, as ``torch.optim`` computes them, bit for bit: the same operations in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dreamprop.optim.base import Grouped, ParamGroup, Tensors
from dreamprop.optim.moments import MomentKey, ahead, moment_key
from dreamprop.schedule import Schedule
from dreamprop.utils.foreach import Tensors as Many
from dreamprop.utils.foreach import add, addcdiv, blocks, lerp, like, mul


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
        """Parameters and moments after one step with these gradients, in new memory; `step` counts from 0."""
        self._check(params, moments, grads)
        new_params, (moments, count) = dict(params), self._counted(moments, step)
        new_moments = {key: m for key, m in moments.items() if not MomentKey.parse(key).cached}
        count += 1
        for names, at in self._groups.values():
            o = at(step)
            bias1, bias2 = 1 - o["beta1"] ** count, 1 - o["beta2"] ** count
            old = [[params[n] for n in names]] + [
                [moments[moment_key(n, m)] for n in names] for m in self.moments
            ]
            new = [like(ts) for ts in old]
            for _, (grad, *pieces) in blocks([grads[n] for n in names], *old, *new):
                g: Many = grad
                p: Many = pieces[0]
                new_p, m, v, *largest = pieces[len(old) :]
                if o["weight_decay"] != 0:
                    if self.decoupled:
                        p = torch._foreach_mul(p, 1 - o["lr"] * o["weight_decay"])
                    else:
                        g = torch._foreach_add(g, p, alpha=o["weight_decay"])
                lerp(m, pieces[1], g, 1 - o["beta1"])
                mul(v, pieces[2], o["beta2"])
                torch._foreach_addcmul_(v, g, g, 1 - o["beta2"])
                if largest:
                    torch._foreach_copy_(largest[0], pieces[3])
                    torch._foreach_maximum_(largest[0], v)
                denominator = torch._foreach_sqrt(largest[0] if largest else v)
                torch._foreach_div_(denominator, bias2**0.5)
                torch._foreach_add_(denominator, o["eps"])
                addcdiv(new_p, p, m, denominator, -(o["lr"] / bias1))
            new_params.update(zip(names, new[0], strict=True))
            for moment, tensors in zip(self.moments, new[1:], strict=True):
                new_moments.update(zip((moment_key(n, moment) for n in names), tensors, strict=True))
        return new_params, new_moments

    def predict(self, params: Tensors, moments: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """One step as if gradient and squared gradient equalled their running means ``m_hat`` and ``v_hat``.

        Those means then stay what they are, and so does the direction ``m_hat / (sqrt(v_hat) + eps)``: it is worked
        out at the first of several predictions in a row, and handed on beside the moments. Before the first update
        there is no mean, and the prediction is a copy.
        """
        self._check(params, moments)
        new_params, (new_moments, count) = dict(params), self._counted(moments, step)
        for names, at in self._groups.values() if count else ():
            o = at(step)
            keys = [str(ahead(n)) for n in names]
            if any(key not in moments for key in keys):
                new_moments.update(zip(keys, self._ahead(names, moments, o, count), strict=True))
            ps, ds = [params[n] for n in names], [new_moments[key] for key in keys]
            new_ps = like(ps)
            for _, (piece, d, new_p) in blocks(ps, ds, new_ps):
                p: Many = piece
                if self.decoupled and o["weight_decay"] != 0:
                    p = torch._foreach_mul(p, 1 - o["lr"] * o["weight_decay"])
                add(new_p, p, d, -o["lr"])
            new_params.update(zip(names, new_ps, strict=True))
        return new_params, new_moments

    def _ahead(
        self, names: Sequence[str], moments: Tensors, o: dict[str, float], count: int
    ) -> list[torch.Tensor]:
        """Directions ``m_hat / (sqrt(v_hat) + eps)``, one for each name, of moments that have seen `count` updates."""
        bias1, bias2 = 1 - o["beta1"] ** count, math.sqrt(1 - o["beta2"] ** count)
        top = "max_exp_avg_sq" if self.amsgrad else "exp_avg_sq"
        ms, vs = (
            [moments[moment_key(n, "exp_avg")] for n in names],
            [moments[moment_key(n, top)] for n in names],
        )
        ds = like(ms)
        for _, (m, v, d) in blocks(ms, vs, ds):
            denominator = torch._foreach_sqrt(v)
            torch._foreach_mul_(denominator, bias1 / bias2)
            torch._foreach_add_(denominator, o["eps"] * bias1)
            torch._foreach_copy_(d, m)
            torch._foreach_div_(d, denominator)
        return ds


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
