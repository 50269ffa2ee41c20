"""Calls of a frozen network by several steps: joined along their rows, run once, and taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

ROUNDING = 1e-2
"""Relative difference that rounding may make between an answer alone and the same one among others; half the digits
of its type where those are fewer."""


class Mixed(Exception):
    """Raised where a network does not answer row by row; its words say how that showed."""


@dataclass
class Call:
    """A call of a network by one step."""

    network: nn.Module
    forward: Callable[..., Any]
    leaves: list[Any]
    spec: Any
    context: tuple[str, bool, torch.dtype]
    """Autocast where the network was called from: kind of device, whether it is on, and its type."""
    recorded: bool
    """Whether gradients are recorded through it."""

    @classmethod
    def of(
        cls, network: nn.Module, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Call | None:
        """A call that others may be joined to; None where nothing in it has rows."""
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not any(t.dim() for t in tensors):
            return None
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        kind = tensors[0].device.type
        context = (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        return cls(network, forward, leaves, spec, context, recorded)

    @property
    def rows(self) -> int:
        """How many rows the batch of this call has."""
        return next(len(leaf) for leaf in self.leaves if isinstance(leaf, Tensor) and leaf.dim())

    @property
    def key(self) -> Any:
        """What a call must have in common with those that it can be joined to."""
        rows = self.rows
        shapes = []
        for leaf in self.leaves:
            if not isinstance(leaf, Tensor):
                shapes.append(repr(leaf))
            elif leaf.dim() and len(leaf) != rows:
                return id(self)  # only with itself
            else:
                grad = self.recorded and leaf.requires_grad
                shapes.append(f"{tuple(leaf.shape)} {leaf.dtype} {leaf.device} {grad}")
        return (id(self.network), str(self.spec), tuple(shapes), self.context, self.recorded)

    def run(self, leaves: Sequence[Any] | None = None, recorded: bool | None = None) -> Any:
        """The network's answer to these inputs; to its own, and recorded as it was called, by default."""
        kind, enabled, dtype = self.context
        args, kwargs = pytree.tree_unflatten(list(self.leaves if leaves is None else leaves), self.spec)
        grad = self.recorded if recorded is None else recorded
        with torch.set_grad_enabled(grad), torch.autocast(kind, dtype=dtype, enabled=enabled):
            return self.forward(*args, **kwargs)


def joinable() -> bool:
    """Whether a recorded call here may be made elsewhere: not where tensors that are saved for the backward pass go
    through hooks, as in a part that is checkpointed, which would not see them."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def form(answer: Any) -> Any:
    """An answer with tensors in the place of its own that have their types, shapes and strides alone."""
    return pytree.tree_map_only(Tensor, lambda tensor: _strided(tensor, "meta"), answer)


def _strided(like: Tensor, device: torch.device | str) -> Tensor:
    """An empty tensor that lies in memory as another one does; ``empty_like`` gives a batch of one other strides."""
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)


def join_calls(calls: Sequence[Call], like: Any) -> list[Any]:
    """The answers of calls of equal keys, from one run of their network.

    Args:
        calls: at least one.
        like: the form of the answer to one of them alone. With more rows a network may answer in other strides, and
            what a step draws in the likeness of an answer depends on its strides.

    Raises:
        Mixed: the answer has not a row for each row.
    """
    with torch.set_grad_enabled(calls[0].recorded):
        leaves = []
        for column in zip(*(call.leaves for call in calls), strict=True):
            if not isinstance(column[0], Tensor):
                leaves.append(column[0])
            elif column[0].dim() == 0:  # one noise level for a whole call
                leaves.append(torch.cat([value.expand(calls[0].rows) for value in column]))
            else:
                leaves.append(torch.cat(column))
        answer, spec = pytree.tree_flatten(calls[0].run(leaves))
        forms, alone = pytree.tree_flatten(like)
        if spec != alone:
            raise Mixed("it answers in another form where there are more rows")
        parts = [_parts(leaf, one, len(calls)) for leaf, one in zip(answer, forms, strict=True)]
        return [pytree.tree_unflatten([part[i] for part in parts], spec) for i in range(len(calls))]


def _parts(leaf: Any, like: Any, count: int) -> list[Any]:
    """The part of each call in a piece of an answer, in memory of its own."""
    if not isinstance(leaf, Tensor) or not isinstance(like, Tensor):
        if leaf is None or (isinstance(leaf, (bool, int, float, str)) and leaf == like):
            return [leaf] * count
        raise Mixed(f"it answers with {type(leaf).__name__}, which has no rows")
    if not like.dim() or leaf.shape != (count * len(like), *like.shape[1:]):
        raise Mixed(
            f"it answers one call with shape {list(like.shape)}, {count} calls with {list(leaf.shape)}"
        )
    return [_strided(like, leaf.device).copy_(part) for part in leaf.chunk(count)]


@torch.no_grad()
def compare(alone: Any, joined: Any) -> None:
    """Hold an answer to a call alone against its part of the answer to several.

    Raises:
        Mixed: they differ by more than rounding.
    """
    for one, other in zip(pytree.tree_leaves(alone), pytree.tree_leaves(joined), strict=True):
        if not isinstance(one, Tensor):
            continue
        a, b = one.double(), other.double()
        most = max(ROUNDING, torch.finfo(one.dtype).eps ** 0.5) if one.is_floating_point() else 0.0
        off = float((a - b).norm() / a.norm().clamp_min(1e-30))
        if off > most:  # where something is not finite nothing can be told
            raise Mixed(f"with other rows beside them its rows come out different by {off:.1g} of their norm")
