"""What a checkpoint must hold to be one of a process: tensors of the names, types and shapes of the process's own
states, and finite numbers in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamprop.checkpoint.format import PARTS, Damaged
from dreamprop.optim.moments import SKIPPED, MomentKey
from dreamprop.process import Process
from dreamprop.solver.predict import momentum
from dreamprop.solver.window import Window
from dreamprop.state import State

Form = tuple[torch.dtype, tuple[int, ...]]
"""The type and the shape of a tensor."""
Forms = Mapping[str, Mapping[str, Form]]
"""The forms of a state's tensors, by part and name."""

REMEDY = "use an earlier one, or begin a new run"


@dataclass(frozen=True)
class Expected:
    """The forms of a process's states, without the states: nothing of them is in memory when a checkpoint is read."""

    eras: tuple[tuple[int, Forms], ...]
    """From which step on states have which forms, the first at step 0 and one for each boundary."""
    shaped: bool
    """Whether the shapes behind a boundary are known; else only the numbers of dimensions are."""

    @classmethod
    def of(cls, process: Process, last: int) -> Expected:
        """The forms of the states that enter steps up to a last one.

        The first state is made, and grown at each boundary on the way; it is let go of before this returns.
        """
        state = process.init()
        eras = [(0, _forms(state))]
        for boundary in sorted(step for step in process.boundaries if step <= last):
            state = momentum(process, replace(state, step=boundary - 1))
            # without what a prediction leaves to the next
            moments = {name: m for name, m in state.moments.items() if MomentKey.parse(name).initial}
            state = replace(state, moments=moments)
            eras.append((boundary, _forms(state)))
        return cls(tuple(eras), process.known_sizes)

    def check(self, window: Window) -> None:
        """See that the states of a window are of these forms and hold finite numbers.

        Raises:
            Damaged: they are not; one line names the first tensor that is not.
        """
        first = window.states[0]
        for state in window.states:
            began, forms = max((era for era in self.eras if era[0] <= state.step), key=lambda era: era[0])
            shaped = self.shaped or began == 0
            moments = dict(state.moments)
            skipped = moments.pop(SKIPPED, None)
            if skipped is not None:
                _alike("moments", {SKIPPED: skipped}, {SKIPPED: (torch.int64, ())})
            _alike("params", state.params, forms["params"], shaped)
            _alike("buffers", state.buffers, forms["buffers"], shaped)
            if moments or state is first:  # of those ahead, only the last has some
                _alike("moments", moments, forms["moments"], shaped)
        counts = {name: _form(b) for name, b in first.buffers.items() if not b.is_floating_point()}
        _alike("trend", window.trend, {name: counts[name] for name in window.trend if name in counts})


def _form(tensor: Tensor) -> Form:
    return tensor.dtype, tuple(tensor.shape)


def _forms(state: State) -> Forms:
    return {part: {name: _form(t) for name, t in getattr(state, part).items()} for part in PARTS}


def _alike(part: str, got: Mapping[str, Tensor], like: Mapping[str, Form], shaped: bool = True) -> None:
    """See that tensors are finite, and have the names, the types and, if wanted, the shapes of others."""
    if got.keys() != like.keys():
        name = min(got.keys() ^ like.keys())
        what = f"without {name}" if name in like else f"with {name}"
        raise Damaged(f"checkpoint must hold the {part} of its process, got them {what}", REMEDY)
    for name, tensor in got.items():
        (dtype, shape), (wanted, wanted_shape) = _form(tensor), like[name]
        kind = (dtype, shape if shaped else len(shape))
        rule = (wanted, wanted_shape if shaped else len(wanted_shape))
        if kind != rule:
            what, found = (f"{str(one).removeprefix('torch.')} {size}" for one, size in (rule, kind))
            raise Damaged(f"checkpoint must hold {part} {name} as {what}, got {found}", REMEDY)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Damaged(f"checkpoint must hold finite {part}, got NaN or Inf in {name}", REMEDY)
