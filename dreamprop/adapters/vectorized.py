"""The drifts of a window of a wrapped loop by ``torch.func.vmap``: parameters, buffers and draws are stacked, [W, ...],
and the loss is mapped over them.

Gradients are those of the sum of the losses, by one backward pass over the mapped graph: what ``vmap(grad(loss))``
gives, but that a parameter without a part in the loss has none, as in PyTorch's loops, where that would give zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dreamprop.adapters.generator_states import generator_states, same_states
from dreamprop.adapters.loss_drift import LossDrift, check_some
from dreamprop.adapters.original import refuse_gradients, versions, written
from dreamprop.rng import generator, seeded
from dreamprop.state import BufferWrite, Drift, State

SampleFn = Callable[[int, torch.Generator], Any]
MappedLoss = Callable[[nn.Module, Tensor, Any], Tensor]

REMEDIES = (
    (
        ("data-dependent control flow", ".item()"),
        "choose by torch.where, or in sample_fn, where the step is a number",
    ),
    (("random",), "draw in sample_fn"),
    (
        ("memory_format",),
        "give networks .to(memory_format=torch.contiguous_format), or frozen=[...] in the place of vectorize",
    ),
)
"""By words of what is raised."""


class Sampling:
    """A loss of (module, step, sample) as one of (module, step): its draws come from ``sample_fn``.

    Args:
        loss_fn: (module, step, sample) to a scalar; the step is a tensor, on the device of the parameters.
        sample_fn: (step, generator) to a pytree of tensors; the step is a number.
        seed: of the draws.
        device: of the parameters.
    """

    def __init__(self, loss_fn: MappedLoss, sample_fn: SampleFn, seed: int, device: torch.device) -> None:
        self.loss_fn, self._sample_fn, self._seed, self._device = loss_fn, sample_fn, seed, device

    def __call__(self, module: nn.Module, step: int) -> Tensor:
        """The loss of one step; the global generators are seeded."""
        leaves, spec = self._draw(step)
        sample = pytree.tree_unflatten([leaf.to(self._device) for leaf in leaves], spec)
        return self.loss_fn(module, torch.full((), step, device=self._device), sample)

    def stacked(self, steps: Sequence[int]) -> tuple[list[Tensor], Any]:
        """The leaves of the samples of several steps, [W, ...] each, on the device of the parameters; and how one
        sample is put together.

        Raises:
            ValueError: samples differ in more than their values.
        """
        drawn = []
        for step in steps:
            with seeded(self._seed, step, self._device):
                drawn.append(self._draw(step))
        first, spec = drawn[0]
        for step, (leaves, other) in zip(steps, drawn, strict=True):
            forms, like = [[(list(x.shape), x.dtype) for x in some] for some in (leaves, first)]
            if other != spec or forms != like:
                raise ValueError(
                    f"sample_fn must return tensors of the same shapes and types at every step, got {forms} at step "
                    f"{step}, {like} at {steps[0]}; leave vectorize out, or make them alike"
                )
        columns = zip(*(leaves for leaves, _ in drawn), strict=True)
        return [torch.stack(column).to(self._device) for column in columns], spec

    def _draw(self, step: int) -> tuple[list[Tensor], Any]:
        leaves, spec = pytree.tree_flatten(self._sample_fn(step, generator(self._seed, step, "loss")))
        wrong = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), None)
        if wrong is not None:
            raise ValueError(
                f"sample_fn must return tensors, alone or in tuples, lists and dicts, got {wrong!r}; use torch.tensor"
            )
        return leaves, spec


class Vectorized:
    """Evaluates the steps of a window in one call of the loss; agrees with one by one to rounding.

    Args:
        alone: evaluates one step.
        sampling: the loss.
        held: names of the parameters that the optimiser moves.

    Raises:
        ValueError: a parameter has a hook, which gradients of stacked parameters do not pass.
    """

    remedy = "compute in loss_fn from module, step and sample alone, by PyTorch's functions; or leave vectorize out"

    def __init__(self, alone: LossDrift, sampling: Sampling, held: Collection[str]) -> None:
        self._alone, self._sampling = alone, sampling
        parameters = dict(alone.copy.module.named_parameters())
        for name in held:
            if parameters[name]._backward_hooks or parameters[name]._post_accumulate_grad_hooks:
                raise ValueError(
                    f"parameters must have no hooks with vectorize=True, got one of {name!r}; leave vectorize out"
                )
        self._mapped = _Mapped(alone.copy.module, sampling.loss_fn, alone.copy.buffers)

    def __call__(self, states: Sequence[State]) -> list[Drift]:
        """The drifts at several states.

        Raises:
            ValueError: the loss cannot be mapped.
        """
        alone, first = self._alone, states[0]
        params, buffers = (
            {n: torch.stack([part[n] for part in parts]) for n in parts[0]}
            for parts in ([s.params for s in states], [s.buffers for s in states])
        )
        for stack in params.values():
            stack.requires_grad_()
        constants = {n: p for n, p in alone.copy.module.named_parameters() if n not in params}
        before = versions(constants | params)
        with alone.original.aside():
            losses, left = self._losses(states, params, buffers)
            if not losses.requires_grad or losses.numel() != len(states):
                alone(first)  # which tells what is wrong with its loss
            theirs = alone.original.trained
            inputs = [*params.values(), *theirs.values()]
            found = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)
        refuse_gradients(dict(zip(theirs, found[len(params) :], strict=True)))
        for name in written(before, versions(constants | params)):
            for i, state in enumerate(states):
                alone.unwritten(state, {name: params[name][i] if name in params else constants[name]})
        grads = {n: grad.unbind() for n, grad in zip(params, found, strict=False) if grad is not None}
        check_some({n: parts[0] for n, parts in grads.items()}, first.step)
        after = {n: buffer.detach().unbind() for n, buffer in left.items()}
        drifts = []
        for i, state in enumerate(states):
            writes = {n: BufferWrite(state.buffers[n], parts[i]) for n, parts in after.items()}
            drifts.append(alone.clippable(Drift({n: parts[i] for n, parts in grads.items()}, writes=writes)))
        return drifts

    def _losses(
        self, states: Sequence[State], params: dict[str, Tensor], buffers: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses [W], and the buffers as the loss has left them, [W, ...] each."""
        numbers = [state.step for state in states]
        sample, spec = self._sampling.stacked(numbers)
        steps = torch.tensor(numbers, device=next(iter(params.values())).device)
        before = generator_states()

        def one(
            params: dict[str, Tensor], buffers: dict[str, Tensor], step: Tensor, leaves: list[Tensor]
        ) -> Any:
            named = {f"module.{n}": t for n, t in (params | buffers).items()}
            return torch.func.functional_call(
                self._mapped, named, (step, pytree.tree_unflatten(leaves, spec))
            )

        try:
            found: tuple[Tensor, dict[str, Tensor]] = torch.func.vmap(one)(params, buffers, steps, sample)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._alone(states[0])  # what is wrong with the loss itself is raised here, in its own words
            raise ValueError(_unmapped(error)) from error
        if not same_states(before, generator_states()):
            raise ValueError(
                "loss_fn must draw no random numbers with vectorize=True, drew from numpy's or Python's generators; "
                "draw in sample_fn"
            )
        return found


class _Mapped(nn.Module):
    """A loss as the forward pass of a module, which is what PyTorch calls with other parameters.

    Args:
        module: that the loss is of.
        loss_fn: the loss.
        buffers: gives the buffers of the module that are part of the state.
    """

    def __init__(
        self, module: nn.Module, loss_fn: MappedLoss, buffers: Callable[[], dict[str, Tensor]]
    ) -> None:
        super().__init__()
        self.module, self.loss_fn, self.buffers_now = module, loss_fn, buffers

    def forward(self, step: Tensor, sample: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the buffers after it."""
        return self.loss_fn(self.module, step, sample), self.buffers_now()


def _unmapped(error: Exception) -> str:
    """Why a loss cannot be mapped, in a line with a remedy."""
    said = " ".join(str(error).split())
    remedy = "write it in functions that vmap maps, or give frozen=[...] in the place of vectorize"
    for words, known in REMEDIES:
        if any(word in said for word in words):
            remedy = known
            break
    reason = said.removeprefix("vmap: ").split(". ")[0] or type(error).__name__
    return f"loss_fn must be such that torch.func.vmap maps it with vectorize=True, got {reason!r}; {remedy}"
