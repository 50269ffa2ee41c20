"""Copies of a system that share what is frozen."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from dreamprop.threestudio.extra_state import updateable, walk


def frozen_networks(system: Any, trained: Iterable[Any]) -> list[nn.Module]:
    """Networks that hang on a system's parts and that no training touches: diffusion models, mostly.

    Args:
        system: to look through.
        trained: its trained parameters.
    """
    moving = {id(p) for p in trained}
    found: dict[int, nn.Module] = {}
    for _, part in walk(system):
        inner = {id(m) for m in part.modules()} if isinstance(part, nn.Module) else set()
        for name, value in vars(part).items():
            if name.startswith("_"):
                continue
            for network in _networks(value):
                if id(network) in inner or updateable(network):
                    continue
                if not any(p.requires_grad or id(p) in moving for p in network.parameters()):
                    found[id(network)] = network
    return list(found.values())


def _networks(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    """Modules behind an attribute: itself, those of a pipeline, those in a dataclass."""
    if isinstance(value, nn.Module):
        yield value
    elif not depth:
        return
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _networks(getattr(value, field.name, None), depth - 1)
    elif hasattr(type(value), "from_pretrained"):  # a pipeline of diffusers
        for inner in list(vars(value).values()):
            yield from _networks(inner, 0)


def replicate(system: Any, networks: Iterable[nn.Module], share: Iterable[Any]) -> Any:
    """A copy of a system with its own trained parameters, buffers and attributes.

    Args:
        system: detached from its trainer.
        networks: frozen; shared as they are.
        share: other things that are not copied.
    """
    memo: dict[int, Any] = {id(thing): thing for thing in (*networks, *share)}
    for _, part in walk(system):
        for value in vars(part).values():
            for network in _networks(value):
                # one that holds something trained is copied, its frozen weights are not
                memo |= {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(system, memo)
