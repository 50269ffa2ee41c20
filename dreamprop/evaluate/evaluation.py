"""An evaluator at work in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dreamprop.distributed.layout import REPLICATED, Layout
from dreamprop.process import Process
from dreamprop.state import Drift, State

Evaluate = Callable[[Process, Sequence[State]], list[Drift]]
"""Maps a process and some of its states to the drift at each of them."""


class Evaluation:
    """The drifts of one run; what is learnt on the way is kept here and not in the evaluator, which is a value.

    Args:
        process: the chain.
        evaluate: process and states to drifts.
    """

    layout: Layout = REPLICATED
    """How states lie over processes."""
    size: int = 1
    """Processes that share the work."""
    seconds: float = 0.0
    """Spent on exchanges in the last call, waiting for slower processes included."""

    def __init__(self, process: Process, evaluate: Evaluate) -> None:
        self.process = process
        """The chain as it lies over processes: what the loop rolls out."""
        self._evaluate = evaluate

    def __call__(self, states: Sequence[State]) -> list[Drift]:
        """The drift at each state.

        Raises:
            ValueError: the evaluator returns more or fewer.
        """
        drifts = self._evaluate(self.process, states)
        if len(drifts) != len(states):
            raise ValueError(
                f"evaluator must return a drift for each of {len(states)} states, got {len(drifts)}"
            )
        return drifts
