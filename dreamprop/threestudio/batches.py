"""The batch of a step as Lightning's loader would have given it, from the step alone.

Lightning fetches one batch ahead, so the batch of step t is drawn from a data set that was last updated at
step t - 2; the first two come from the data set as it was made.
"""

from __future__ import annotations

from typing import Any

from dreamprop.threestudio.parts import updateable, walk

LAG = 2
"""Batches between the update of a data set and the first batch that shows it."""


class Batches:
    """Batches by index; nothing is iterated, the data set is put into the state that the index asks for.

    Args:
        loader: the training data loader.
        accumulate: batches of one optimiser step.
    """

    def __init__(self, loader: Any, accumulate: int = 1) -> None:
        self.dataset = loader.dataset
        self._loader, self._accumulate = loader, accumulate
        # workers have their own copies of the data set, which nobody updates
        self._updated = updateable(self.dataset) and not getattr(loader, "num_workers", 0)
        self._made = [(part, dict(vars(part))) for _, part in walk(self.dataset)]

    def at(self, index: int) -> Any:
        """The batch of an index; draws from the global generators."""
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
