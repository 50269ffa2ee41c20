"""Norms of a round: gradients, and how far rolled-out states are from their guesses.

A slot is one step of the window; slot 0 is the accepted state. Shapes: W slots of a window, N named tensors.
Norms are taken on the device and read back together: once for the gradients, before anything is made of them, and once
for the states. Sums of squares are the same however states lie over processes and however many threads there are: they
are exact sums over the norms of pieces whose borders depend on the tensor alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamprop.distributed.layout import REPLICATED, Layout
from dreamprop.process import Group, buffer_distance
from dreamprop.solver.buffers import Units
from dreamprop.state import Drift, State, check_shapes
from dreamprop.utils.exact_sum import partial_sums, piece_norms, total
from dreamprop.utils.foreach import blocks

BufferDistance = Callable[[str, Tensor, Tensor], Tensor]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Norms:
    """What was read back from the device for one slot."""

    error: dict[str, float] | None
    """Sum of squares of (rolled out - guess), by name; ``None`` where there is no guess to compare with."""
    moved: dict[str, float]
    """Sum of squares of what the update into this slot moved, by name."""
    count: dict[str, int]
    """Elements, by name."""
    differs: bool
    """Whether any bit of parameters or buffers differs from the guess; looked at for a tolerance of 0."""
    buffers: dict[str, float] = field(default_factory=dict)
    """How far each buffer that belongs to no group is from the guess's, in its unit."""


def measure(
    guesses: Sequence[State],
    rolled: Sequence[State],
    groups: Sequence[Mapping[str, Group]],
    *,
    exact: bool = False,
    layout: Layout = REPLICATED,
    units: Units | None = None,
    distance: BufferDistance | None = None,
) -> list[Norms]:
    """How far rolled-out states are from their guesses, read back from the device once.

    Args:
        guesses: the base and the guesses behind it.
        rolled: [F] rolled-out states; the i-th is held against the (i+1)-th guess, where there is one.
        groups: [W] error groups of the updates, W >= F.
        exact: compare bits too, buffers included.
        layout: how states lie over processes; the same numbers come out however they do.
        units: of the buffers' differences.
        distance: (name, rolled-out buffer, the guess's) to how far they differ; by the kind of their type by default.

    Returns:
        norms: [F] of slots 1..F.
    """
    reading = _Reading()
    norms: list[Norms] = []
    units = units or Units()
    distance = distance or (lambda name, now, then: buffer_distance(now, then))

    def mine(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in named.items() if layout.counts(rolled[0], name)}

    for i, state in enumerate(rolled):
        if i + 1 >= len(guesses):
            norms.append(Norms(None, {}, {}, False))
            continue
        guess, before = guesses[i + 1], rolled[i - 1] if i else guesses[0]
        check_shapes(guess, state)
        named = dict(state.params)
        named.update({n: state.buffers[n] for g in groups[i].values() for n in g.names if n not in named})
        reading.difference(("error", i), mine(named), {**guess.buffers, **guess.params})
        measured = [n for group in groups[i].values() if group.step is None for n in group.names]
        old = {**before.buffers, **before.params}
        reading.difference(("moved", i), mine({name: named[name] for name in measured}), old)
        for name, buffer in mine(state.buffers).items():
            if name not in named and math.isfinite(units.of(name)) and buffer is not guess.buffers[name]:
                off = distance(name, buffer, guess.buffers[name])
                reading.value(("buffer", i), name, off / units.of(name))
        if exact:
            for now, then in ((state.params, guess.params), (state.buffers, guess.buffers)):
                reading.bits(("bits", i), list(mine(now).values()), [then[n] for n in mine(now)])
        count = {name: layout.numel(state, name) for name in named}
        norms.append(Norms(dict.fromkeys(named, 0.0), dict.fromkeys(measured, 0.0), count, False))
    squares: dict[tuple[str, int, str], list[float]] = {}
    for kind, i, name, value in layout.gather(_rows(reading.read())):
        if kind == "buffer":
            norms[i].buffers[name] = value
        elif kind == "bits":
            norms[i].differs = True
        else:
            squares.setdefault((kind, i, name), []).append(value)
    for (kind, i, name), parts in squares.items():
        sums = norms[i].moved if kind == "moved" else norms[i].error
        assert sums is not None
        sums[name] = total(parts)
    return norms


def _rows(read: Sequence[tuple[str, int, str, float]]) -> list[tuple[str, int, str, float]]:
    """What the processes tell each other of what they have read: kind, slot, name and a number.

    Squares of one tensor come as a few numbers with the same exact sum, bits only where they differ.
    """
    rows: list[tuple[str, int, str, float]] = []
    squares: dict[tuple[str, int, str], list[float]] = {}
    for kind, i, name, value in read:
        if kind in ("error", "moved"):
            squares.setdefault((kind, i, name), []).append(value * value)
        elif kind == "buffer" or value != 0:
            rows.append((kind, i, name, value))
    return rows + [(*key, part) for key, terms in squares.items() for part in partial_sums(terms)]


def nonfinite(drifts: Sequence[Drift], state: State, layout: Layout = REPLICATED) -> list[str | None]:
    """For each drift the first parameter whose gradient holds a NaN or an Inf, else ``None``; waits for the device
    once.

    Args:
        drifts: [W] as they lie here.
        state: one that they belong to.
        layout: how states lie over processes, which must all ask together.
    """
    reading = _Reading()
    for i, drift in enumerate(drifts):
        reading.norm(("grad", i), {n: g for n, g in drift.grads.items() if layout.counts(state, n)})
    suspects = [(i, name) for _, i, name, value in reading.read() if not math.isfinite(value)]
    # a sum of squares that overflows looks like one
    broken = set(layout.gather([(i, name) for i, name in suspects if not _finite(drifts[i].grads[name])]))
    return [next((n for n in drift.grads if (i, n) in broken), None) for i, drift in enumerate(drifts)]


def _finite(tensor: Tensor) -> bool:
    """Whether every value is finite; asked only where a norm is not, since it waits for the device."""
    return bool(tensor.isfinite().all())


class _Reading:
    """Numbers that are on the device still."""

    def __init__(self) -> None:
        self._labels: dict[torch.dtype, list[tuple[tuple[str, int], str]]] = {}
        self._values: dict[torch.dtype, list[Tensor]] = {}

    def _add(self, kind: tuple[str, int], names: Sequence[str], values: Sequence[Tensor]) -> None:
        for name, value in zip(names, values, strict=True):
            self._labels.setdefault(value.dtype, []).append((kind, name))
            self._values.setdefault(value.dtype, []).append(value)

    def norm(self, kind: tuple[str, int], tensors: Mapping[str, Tensor]) -> None:
        """Norm of each tensor: NaN and Inf show in it, and a sum of squares that overflows looks like one."""
        named = {name: t.detach() for name, t in tensors.items() if t.numel()}
        for dtype in dict.fromkeys(t.dtype for t in named.values()):
            some = {name: t for name, t in named.items() if t.dtype == dtype}
            wide = torch.float32 if dtype.itemsize < 4 else None
            self._add(kind, list(some), torch._foreach_norm(list(some.values()), ord=2, dtype=wide))

    def difference(self, kind: tuple[str, int], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
        """Norms of a - b by piece, of the tensors of a."""
        names = [name for name, t in a.items() if t.numel() and (t.is_floating_point() or t.is_complex())]
        for dtype in dict.fromkeys(a[name].dtype for name in names):
            some = [name for name in names if a[name].dtype == dtype]
            flat = [[tensors[name].detach().reshape(-1) for name in some] for tensors in (a, b)]
            for owners, (x, y) in blocks(*flat):
                owned, values = piece_norms(owners, torch._foreach_sub(x, y))
                self._add(kind, [some[k] for k in owned], values)

    def bits(self, kind: tuple[str, int], a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Whether any bit differs, or a value is not a number, for which equality says nothing."""
        for x, y in zip(a, b, strict=True):
            x, y = (torch.view_as_real(t) if t.is_complex() else t for t in (x.detach(), y.detach()))
            as_bits = BITS[x.element_size()]
            self._add(kind, [""], [((x.view(as_bits) != y.view(as_bits)) | (x != x)).any()])

    def value(self, kind: tuple[str, int], name: str, value: Tensor) -> None:
        """Keep a number that is on the device."""
        self._add(kind, [name], [value])

    def read(self) -> list[tuple[str, int, str, float]]:
        """All rows (kind, slot, name, value); waits for the device once."""
        if not self._values:
            return []
        device = next(iter(self._values.values()))[0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        columns = [torch.stack([v.to(device) for v in values]).to(wide) for values in self._values.values()]
        labels = [label for some in self._labels.values() for label in some]
        values = torch.cat(columns).tolist()
        return [(*kind, name, value) for (kind, name), value in zip(labels, values, strict=True)]
