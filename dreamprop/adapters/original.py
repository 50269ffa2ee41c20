"""The module that was wrapped: while a loss runs on its copy nothing of it may be used or change."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Original:
    """Watches a module whose copy is at work.

    Args:
        module: the original.
        copied: its copy; tensors that both have are not watched.
        held: names of the parameters that the optimiser moves; the others are constants, the same in both.
    """

    def __init__(self, module: nn.Module, copied: nn.Module, held: Collection[str]) -> None:
        shared = {id(t) for t in (*copied.parameters(), *copied.buffers())}
        self._parameters = {n: p for n, p in module.named_parameters() if id(p) not in shared}
        self._held = {n: p for n, p in self._parameters.items() if n in held}
        buffers = {n: b for n, b in module.named_buffers() if id(b) not in shared}
        self._tensors = self._parameters | buffers
        moving = {id(p) for p in self._held.values()}
        parts = module.named_modules()
        self._parts = {n: m for n, m in parts if any(id(p) in moving for p in m.parameters(recurse=False))}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While this lasts the original has no gradients; then it gets back those that it had.

        Raises:
            ValueError: a parameter of it got a gradient, or a tensor of it was written to.
        """
        grads = [p.grad for p in self._parameters.values()]
        before = versions(self._tensors)
        for parameter in self._parameters.values():
            parameter.grad = None
        try:
            yield
            refuse_gradients({n: p.grad for n, p in self._held.items()})
            wrote = written(before, versions(self._tensors))
            if wrote:
                raise ValueError(
                    f"loss_fn must leave the module that was wrapped as it is, wrote to its {wrote[0]!r}; "
                    "use the first argument of loss_fn"
                )
        finally:
            for parameter, grad in zip(self._parameters.values(), grads, strict=True):
                parameter.grad = grad

    @property
    def trained(self) -> dict[str, Tensor]:
        """Its parameters that the optimiser moves, of those that take gradients."""
        return {n: p for n, p in self._held.items() if p.requires_grad}

    @contextmanager
    def uncalled(self) -> Iterator[None]:
        """While this lasts no part of the original that has moving parameters may be called, gradient or not."""

        def refuse(name: str) -> Any:
            def hook(part: nn.Module, arguments: Any) -> None:
                raise ValueError(
                    f"loss_fn must use the module it is given, called {name or type(part).__name__!r} of the one that "
                    "was wrapped, which stays as it is; use the first argument of loss_fn, or a copy"
                )

            return hook

        with ExitStack() as stack:
            for name, part in self._parts.items():
                stack.callback(part.register_forward_pre_hook(refuse(name)).remove)
            yield


def refuse_gradients(grads: Mapping[str, Tensor | None]) -> None:
    """Raise ``ValueError`` where a parameter of the original has a gradient."""
    got = next((name for name, grad in grads.items() if grad is not None), None)
    if got is not None:
        raise ValueError(
            f"loss_fn must use the module it is given, got a gradient at {got!r} of the one that was wrapped; "
            "use the first argument of loss_fn"
        )


def versions(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How often each tensor was written to in place, of those that count it."""
    return {n: t._version for n, t in tensors.items() if not t.is_inference()}


def written(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Names of the tensors that were written to in between."""
    return [] if before == after else [n for n, count in before.items() if after.get(n) != count]


def changed(now: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> str | None:
    """The first tensor whose values are others than they were."""
    return next((n for n, t in now.items() if n in then and not torch.equal(t, then[n])), None)
