"""Stochastic gradient descent with momentum, as ``torch.optim.SGD`` computes it, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from dreamprop.optim.base import Grouped, ParamGroup, Tensors
from dreamprop.optim.moments import moment_key
from dreamprop.process import Group
from dreamprop.schedule import Schedule
from dreamprop.utils.foreach import Tensors as Many
from dreamprop.utils.foreach import blocks, like


class SGD(Grouped):
    """``b' = momentum b + (1 - dampening) g;  p' = p - lr b'``; Nesterov: ``p' = p - lr (g + momentum b')``.

    The first update takes ``b' = g``, whatever the dampening.

    Args:
        groups: parameters with their learning rates.
        momentum, dampening, weight_decay: by step.
        nesterov: look ahead along the momentum.
        maximize: climb instead of descend.
    """

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        momentum: Schedule = 0.0,
        dampening: Schedule = 0.0,
        nesterov: bool = False,
        weight_decay: Schedule = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(groups, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
        plain = momentum == 0 and all("momentum" not in group.options for group in groups)
        if nesterov and (plain or dampening != 0):
            raise ValueError(
                f"nesterov must have momentum > 0 and dampening 0, got {momentum} and {dampening}; "
                "set nesterov=False"
            )
        self.nesterov, self.maximize = nesterov, maximize
        self.moments = () if plain else ("momentum_buffer",)

    def groups(self, step: int) -> Mapping[str, Group]:
        """Each parameter group, measured by what the update moved: SGD's learning rate is not a length."""
        return {label: replace(group, step=None) for label, group in super().groups(step).items()}

    def update(self, params: Tensors, moments: Tensors, grads: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """Parameters and moments after one step down the gradient, in new memory; `step` counts from 0."""
        self._check(params, moments, grads)
        new_params, (new_moments, count) = dict(params), self._counted(moments, step)
        for names, at in self._groups.values():
            o = at(step)
            lists = [[params[n] for n in names], [grads[n] for n in names]]
            if self.moments:
                lists.append([moments[moment_key(n, "momentum_buffer")] for n in names])
            news = [like(lists[0]), *(like(ts) for ts in lists[2:])]
            for _, (p, grad, *rest) in blocks(*lists, *news):
                g: Many = grad
                new_p = rest[-1] if not self.moments else rest[1]
                torch._foreach_copy_(new_p, p)
                if self.maximize:
                    g = torch._foreach_neg(g)
                if o["weight_decay"] != 0:
                    g = torch._foreach_add(g, p, alpha=o["weight_decay"])
                if self.moments:
                    b, new_b = rest[0], rest[2]
                    if count == 0:
                        torch._foreach_copy_(new_b, g)
                    else:
                        torch._foreach_copy_(new_b, b)
                        torch._foreach_mul_(new_b, o["momentum"])
                        torch._foreach_add_(new_b, g, alpha=1 - o["dampening"])
                    g = torch._foreach_add(g, new_b, alpha=o["momentum"]) if self.nesterov else new_b
                torch._foreach_add_(new_p, g, alpha=-o["lr"])
            new_params.update(zip(names, news[0], strict=True))
            if self.moments:
                new_moments.update(
                    zip((moment_key(n, "momentum_buffer") for n in names), news[1], strict=True)
                )
        return new_params, new_moments

    def predict(self, params: Tensors, moments: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """One step as if the gradient equalled its running mean; a copy where there is none to go by."""
        self._check(params, moments)
        new_params, (new_moments, count) = dict(params), self._counted(moments, step)
        if count == 0 or not self.moments:
            return new_params, new_moments
        for names, at in self._groups.values():
            o = at(step)
            ps, bs = [params[n] for n in names], [moments[moment_key(n, "momentum_buffer")] for n in names]
            weight = _weight(count, o["momentum"], o["dampening"])  # b = weight * mean of g
            grown = o["momentum"] + (1 - o["dampening"]) / weight  # b' = grown * b
            length = 1 / weight + o["momentum"] * grown if self.nesterov else grown
            new_ps, new_bs = like(ps), like(bs)
            for _, (p, b, new_p, new_b) in blocks(ps, bs, new_ps, new_bs):
                torch._foreach_copy_(new_p, p)
                torch._foreach_add_(new_p, b, alpha=-o["lr"] * length)
                torch._foreach_copy_(new_b, b)
                torch._foreach_mul_(new_b, grown)
            new_params.update(zip(names, new_ps, strict=True))
            new_moments.update(zip((moment_key(n, "momentum_buffer") for n in names), new_bs, strict=True))
        return new_params, new_moments


def _weight(count: int, momentum: float, dampening: float) -> float:
    """What the momentum buffer sums to after `count` updates with gradients of 1: the scale of a mean in it."""
    tail = momentum ** (count - 1)
    later = count - 1 if momentum == 1 else (1 - tail) / (1 - momentum)
    return tail + (1 - dampening) * later
