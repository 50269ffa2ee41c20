"""The parts of a system, and what they remember outside their parameters and buffers.

threestudio calls whatever has ``do_update_step`` before each step, and lets it write into its own attributes:
a mask of hash-grid levels that only grows, a range of noise levels, a width that is annealed and then stays.
What of this is a number or a tensor is carried in the state like a buffer, so that a step evaluated twice, out
of order, or on another copy of the system finds what it would have found in order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dreamprop.adapters.buffers import moved
from dreamprop.state import BufferWrite
from dreamprop.threestudio.errors import NotAChain

KINDS: tuple[type, ...] = (type(None), bool, int, float)
"""What a carried number may be; its index is written beside its value."""
LARGEST = 1 << 53
"""Integers beyond this are not carried: a float64 does not hold them without loss."""
NUMBERS = "attributes"
"""The name of the buffer of all numbers, [N, 2]: kind and value."""
TENSOR = "attribute."
"""A carried tensor is the buffer ``attribute.<path>``."""
SKIPPED = {
    *("training", "trainer", "dataset", "device", "cfg"),
    *("_hparams", "_hparams_initial", "_hparams_name", "_resumed", "_resumed_eval", "_resumed_eval_status"),
}
"""Attributes that are no memory: what others put there, what Lightning makes when it is asked for it, and where
threestudio keeps that a run was gone on with."""


def updateable(thing: Any) -> bool:
    """Whether threestudio would call a thing before each step."""
    return callable(getattr(type(thing), "do_update_step", None))


def walk(root: Any, skip: Iterable[Any] = ()) -> Iterator[tuple[str, Any]]:
    """A system and its parts with their paths: modules in modules, and what is updated before a step.

    Modules that hang on plain attributes, as frozen networks do, are not entered.

    Args:
        root: the system.
        skip: not entered either.
    """
    seen = {id(thing) for thing in skip}
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, thing = waiting.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield path, thing
        inner = dict(thing._modules) if isinstance(thing, nn.Module) else {}
        plain = {k: v for k, v in vars(thing).items() if not k.startswith("_") and updateable(v)}
        for name, child in {**inner, **plain}.items():
            if child is not None:
                waiting.append((f"{path}.{name}" if path else name, child))


def attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """Plain attributes of a part, but for those that PyTorch and Lightning keep for themselves."""
    known = _frameworks("pytorch_lightning" in sys.modules)
    for name, value in vars(thing).items():
        if name not in known and name not in SKIPPED:
            yield name, value


@cache
def _frameworks(lightning: bool) -> frozenset[str]:
    """Names of attributes that every module has, and every system."""
    kinds: list[Any] = [nn.Module, *([sys.modules["pytorch_lightning"].LightningModule] if lightning else [])]
    return frozenset(name for kind in kinds for name in vars(kind()))


def _is_number(value: Any) -> bool:
    """Whether a value is one that a row of numbers holds without loss."""
    return type(value) in KINDS and not (type(value) is int and abs(value) > LARGEST)


def numbers(system: Any) -> dict[str, Any]:
    """All numbers and tensors in plain attributes as they are now, by path; tensors are copied."""
    found: dict[str, Any] = {}
    for path, part in walk(system):
        for name, value in attributes(part):
            if _is_number(value):
                found[f"{path}.{name}" if path else name] = value
            elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                found[f"{path}.{name}" if path else name] = value.detach().to("cpu", copy=True)
    return found


class ExtraState:
    """The numbers and tensors that the parts of a system keep in plain attributes.

    Args:
        system: with all its parts made.
        skip: parts that are put back in another way.
        names: paths of what is to be carried, where another copy of the system has settled that.
    """

    def __init__(self, system: Any, skip: Iterable[Any] = (), names: set[str] | None = None) -> None:
        self._numbers: list[tuple[Any, str]] = []
        self._tensors: dict[str, tuple[Any, str]] = {}
        self.names: set[str] = set()
        """The paths of the attributes that are carried."""
        for path, part in walk(system, skip):
            for name, value in attributes(part):
                full = f"{path}.{name}" if path else name
                if names is not None and full not in names:  # it has come since
                    continue
                if _is_number(value) and (value is not None or not name.startswith("_")):
                    self._numbers.append((part, name))
                elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    if value.requires_grad or value.grad_fn is not None:
                        continue
                    self._tensors[TENSOR + full] = (part, name)
                else:
                    continue
                self.names.add(full)

    @property
    def buffers(self) -> set[str]:
        """Names of the buffers of a state that they travel in."""
        return {NUMBERS, *self._tensors}

    def read(self) -> dict[str, Tensor]:
        """Copies of all values, as buffers; the numbers on the CPU, so that nothing waits for a GPU to read them."""
        rows = [(KINDS.index(type(v)), float(v or 0)) for v in self._values()]
        found = {NUMBERS: torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)}
        for full, (part, name) in self._tensors.items():
            found[full] = getattr(part, name).detach().clone()
        return found

    def write(self, buffers: Mapping[str, Tensor]) -> None:
        """Put the values that buffers hold back into the attributes."""
        for (part, name), (kind, value) in zip(self._numbers, buffers[NUMBERS].tolist(), strict=True):
            setattr(part, name, None if kind == 0 else KINDS[int(kind)](value))
        for full, (part, name) in self._tensors.items():
            value, now = buffers[full], getattr(part, name)
            if isinstance(now, Tensor) and now.shape == value.shape and now.dtype == value.dtype:
                with torch.no_grad():
                    now.copy_(value)
            else:
                setattr(part, name, value.clone())

    def _values(self) -> Iterator[Any]:
        for part, name in self._numbers:
            value = getattr(part, name)
            if not _is_number(value):
                kind = type(part).__name__
                raise NotAChain(
                    f"{kind}.{name} must stay None or a number of at most 53 bits, got {type(value).__name__}, "
                    "which cannot be put back; run it in threestudio"
                )
            yield value


def after(name: str, value: Tensor, write: BufferWrite) -> Tensor:
    """What a buffer or a carried attribute becomes by a drift.

    What the update hooks wrote into an attribute before the step follows from the step, so it is set; what the
    step itself changed is counted on, as with every buffer.

    Args:
        name: of the buffer.
        value: of the rolled-out state.
        write: what the drift did to it; ``read`` is an attribute as the training step found it, behind the update
            hooks, and ``None`` for a buffer.
    """
    old, seen, new = write.old, write.read, write.new
    if seen is None or not value.shape == old.shape == seen.shape == new.shape:
        return moved(value, old, new)
    if name != NUMBERS:
        return moved(torch.where(seen == old, value, seen), seen, new)
    value = torch.where((seen == old).all(-1, keepdim=True), value, seen)
    countable = torch.stack([value, seen, new])[..., :1].ge(KINDS.index(int)).all(0)  # [N, 1]
    return torch.where(
        countable, moved(value, seen, new), torch.where((new == seen).all(-1, True), value, new)
    )


def numbers_distance(now: Tensor, then: Tensor) -> Tensor:
    """How far two states of the numbers are apart: ``max |a - b| / max(|a|, |b|)``.

    Infinite where the kinds or the truth values of one differ. Shapes: [N, 2], kind and value.
    """
    a, b = now[:, 1], then[:, 1]
    same = (a == b) | (a.isnan() & b.isnan())
    relative = ((a - b).abs() / torch.maximum(a.abs(), b.abs())).masked_fill(same, 0)
    countable = (now[:, 0] == then[:, 0]) & (now[:, 0] >= KINDS.index(int))
    relative = relative.masked_fill(~countable & ~(same & (now[:, 0] == then[:, 0])), torch.inf)
    return relative.max() if len(relative) else relative.new_zeros(())
