"""The batch of a step as Lightning's loader would have given it, from the step alone.

Lightning fetches one batch ahead, so the batch of step t is drawn from a data set that was last updated at
step t - 2; the first two come from the data set as it was made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.data import IterableDataset

from dreamprop.rng import seeded
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.extra_state import updateable, walk

LAG = 2
"""Batches between the update of a data set and the first batch that shows it."""


class StepData:
    """Batches by index; nothing is iterated, the data set is put into the state that the index asks for.

    Args:
        loader: the training data loader.
        accumulate: batches of one optimiser step.

    Raises:
        NotAChain: the data come in an order, so that a batch is no function of its index.
    """

    def __init__(self, loader: Any, accumulate: int = 1) -> None:
        self.dataset = loader.dataset
        self._loader, self._accumulate = loader, accumulate
        # workers have their own copies of the data set, which nobody updates
        self._updated = updateable(self.dataset) and not getattr(loader, "num_workers", 0)
        self._made = [(part, dict(vars(part))) for _, part in walk(self.dataset)]
        if not isinstance(self.dataset, IterableDataset) or not _repeats(self.dataset):
            raise NotAChain(
                f"training data must draw each batch anew and never end, got {type(self.dataset).__name__}, whose "
                "items come in an order; draw them in collate, or run it in threestudio"
            )
        self.restore()

    def at(self, index: int) -> Any:
        """The batch of an index; it is drawn from the global generators, which the caller has seeded."""
        self.restore()
        if self._updated and index >= LAG:
            step = (index - LAG) // self._accumulate
            self.dataset.do_update_step(0, step)
            if callable(getattr(self.dataset, "do_update_step_end", None)):
                done = (index - LAG + 1) // self._accumulate
                self.dataset.do_update_step_end(0, done)
        items = iter(self.dataset)
        if self._loader.batch_size is None:
            return self._loader.collate_fn(next(items))
        return self._loader.collate_fn([next(items) for _ in range(self._loader.batch_size)])

    def restore(self) -> None:
        """Put the data set back into the state it was made in."""
        for part, made in self._made:
            vars(part).clear()
            vars(part).update(made)


def _repeats(dataset: Any) -> bool:
    """Whether a data set gives the same item again and again, given the same draws."""
    found = []
    items = iter(dataset)
    for _ in range(2):
        with seeded(0, 0, torch.device("cpu")):
            found.append(pytree.tree_flatten(next(items, StopIteration)))
    (first, form), (second, other) = found
    ended = any(leaf is StopIteration for leaf in first + second)
    return not ended and form == other and all(map(_same, first, second))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    alike: Any = a is b or a == b
    return bool(alike.all() if hasattr(alike, "all") else alike)
