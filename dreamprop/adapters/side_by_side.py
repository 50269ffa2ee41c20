"""The drifts of a window of a wrapped loop, side by side: each step on its own copy of the module, and one run of each
frozen network for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, nn

from dreamprop.adapters.batched_call import Mixed
from dreamprop.adapters.call_batcher import CallBatcher
from dreamprop.adapters.loss_drift import LossDrift, ModuleCopy
from dreamprop.rng import seeded
from dreamprop.state import Drift, State

REMEDY = (
    "keep what the loss carries across a call of a frozen network in variables of its own call, or in the module it is "
    "given, and not on objects that the steps of a window share; or leave frozen out"
)
"""For drifts that come out different beside others."""


class SideBySide:
    """Evaluates the steps of a window together; agrees with one by one to rounding.

    Args:
        alone: evaluates one step.
    """

    remedy = REMEDY

    def __init__(self, alone: LossDrift) -> None:
        self._alone = alone
        self._copies = [alone.copy]
        self._batcher = CallBatcher(alone.frozen.networks, alone.copy.device, recorded=True, on_mixed=_refuse)
        self._met = False

    def __call__(self, states: Sequence[State]) -> list[Drift]:
        """The drifts at several states.

        Raises:
            ValueError: the loss, or a frozen network, does what cannot be done side by side.
        """
        alone = self._alone
        while len(self._copies) < len(states):
            self._copies.append(alone.copy.twin())
        pairs = list(zip(self._copies, states, strict=False))
        try:
            with alone.original.aside():
                with alone.frozen.watched():  # a write would make the graph of another step useless
                    losses = self._batcher.run([partial(self._loss, copy, state) for copy, state in pairs])
                self._batcher.backward(losses)
        except torch.OutOfMemoryError:  # the copies make room for a smaller window
            del self._copies[1:]
            raise
        if not self._met and not self._batcher.calls:
            kinds = ", ".join(type(network).__name__ for network in alone.frozen.networks)
            warnings.warn(
                f"no step of a window called a network in frozen ({kinds}), so nothing is shared; give the objects "
                "that loss_fn calls",
                stacklevel=2,
            )
        self._met = True
        return [alone.taken(copy, state) for copy, state in pairs]

    def _loss(self, copy: ModuleCopy, state: State) -> Tensor:
        """Called in the step's thread."""
        copy.put(state)
        with seeded(self._alone.seed, state.step, copy.device):
            return self._alone.scalar(copy, state.step)


def _refuse(network: nn.Module, mixed: Mixed) -> NoReturn:
    raise ValueError(
        f"networks in frozen must answer each row as if it were alone, got {type(network).__name__}: {mixed}; call its "
        "eval(), or leave it out of frozen"
    )
