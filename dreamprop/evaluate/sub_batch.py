"""Batches of states: cut from a window, tried, and halved where memory is short."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from numbers import Integral

import torch

from dreamprop.process import Process
from dreamprop.state import Drift, State


class SmallerBatch(UserWarning):
    """A batch did not fit in the memory of the device and was cut."""


def check_sub_batch(sub_batch: int | None) -> None:
    """Raise ``ValueError`` where a most of states in one batch is no count."""
    if sub_batch is not None and (not isinstance(sub_batch, Integral) or sub_batch < 1):
        raise ValueError(
            f"sub_batch must be >= 1, got {sub_batch!r}; use null to evaluate all states at once"
        )


def cut(count: int, size: int) -> list[tuple[int, int]]:
    """The batches of so many states: each from and to; the same ones however many processes share them."""
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def attempt_all(process: Process, batches: Sequence[Sequence[State]]) -> list[Drift] | None:
    """The drifts of several batches, or ``None`` as soon as one does not fit in memory."""
    drifts: list[Drift] = []
    for batch in batches:
        found = attempt(process, batch)
        if found is None:
            return None
        drifts += found
    return drifts


def attempt(process: Process, batch: Sequence[State]) -> list[Drift] | None:
    """The drifts of one batch, or ``None`` where it does not fit in the memory of the device.

    Raises:
        MemoryError: it is a single state that does not fit.
    """
    try:
        if len(batch) > 1 and process.fused:
            found = process.drift_window(list(batch))
            if len(found) != len(batch):
                raise ValueError(
                    f"drift_window must return {len(batch)} drifts, got {len(found)}; give one a state"
                )
            return found
        return [process.drift(state) for state in batch]
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise MemoryError(
                f"the drift of one state must fit in memory, step {batch[0].step} does not ({error}); lower "
                "data.width and data.height or data.batch_size, or parallel.window, whose states lie beside it, or use "
                "half precision weights"
            ) from None
    gc.collect()  # after the error is gone: its frames, and those of threads, held what the batch had made
    torch.cuda.empty_cache()
    return None


def halved(size: int) -> int:
    """Half a batch, with a warning."""
    half = -(-size // 2)
    warnings.warn(
        f"{size} states in one batch do not fit in memory, where each keeps what its gradients are computed from; "
        f"evaluating {half} at a time from here on (parallel.sub_batch={half} from the start saves the try)",
        SmallerBatch,
        stacklevel=3,
    )
    return half
