"""Evaluate the drifts of a window on all processes at the same time.

SPMD on ``torch.distributed``: every rank runs the whole loop and evaluates its part of the window, and what it found
goes to the others in one exchange a round. Batches are cut from the window before they are dealt out, so with the
same ``sub_batch`` the result is bit for bit the same on any number of ranks.

Legend: R ranks, W steps of the window, N elements of all parameters; a slot is one step of the window.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist

from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import TIMEOUT
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.distributed.sharding import ShardedProcess
from dreamprop.errors import RankFailed
from dreamprop.evaluate import exchange
from dreamprop.evaluate.evaluation import Evaluation
from dreamprop.evaluate.exchange import DriftSpec, Slots
from dreamprop.evaluate.sub_batch import attempt_all, check_sub_batch, cut, halved
from dreamprop.process import Process
from dreamprop.state import Drift, State

LAYOUTS = ("replicated", "sharded")
FITS, TOO_LARGE, FAILED = range(3)
"""How the evaluation of its batches went on a rank."""
Batches = list[tuple[int, int]]
"""Slots of the window from and to, by batch."""


@dataclass(frozen=True)
class Distributed:
    """How the ranks are to share the evaluation of a window; see ``distributed``.

    A run begins with ``start``; what is learnt in it stays in what that returns.
    """

    group: dist.ProcessGroup | None = None
    """The ranks, of ``torch.distributed``; ``None``: all processes of the job."""
    layout: str = "replicated"
    """``replicated`` or ``sharded``: whether a rank keeps all of a state, or its part of the parameters."""
    sub_batch: int | None = None
    """Most states in one batch; ``None``: all of a rank's part."""
    timeout: float = TIMEOUT
    """Seconds that a rank may be silent."""

    def __post_init__(self) -> None:
        check_sub_batch(self.sub_batch)
        if self.layout not in LAYOUTS:
            raise ValueError(
                f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}; use replicated"
            )

    def start(self, process: Process, first: State, exact: bool) -> DistributedEvaluation:
        """The evaluation of a run, which all ranks must begin together.

        Args:
            process: the chain.
            first: the state that the run begins with.
            exact: whether the run promises the bits of the sequential run: states are then evaluated one by one,
                unless ``sub_batch`` says otherwise, since a batch rounds in another way.

        Raises:
            ValueError: the ranks begin from different states, or the process does not suit the layout.
        """
        init_process_group(next(iter(first.params.values())).device, self.timeout)
        communicator = Communicator(self.group, self.timeout)
        _check_same_start(communicator, first)
        sub_batch = 1 if exact and self.sub_batch is None else self.sub_batch
        return DistributedEvaluation(process, communicator, self.layout, sub_batch)


class DistributedEvaluation(Evaluation):
    """A run whose drifts are evaluated by several ranks, each its part of a window, and known to all.

    Args:
        process: the chain.
        communicator: the R ranks.
        layout: ``replicated`` or ``sharded``.
        sub_batch: most states in one batch; halved for the rest of the run where they do not fit.
    """

    def __init__(
        self, process: Process, communicator: Communicator, layout: str, sub_batch: int | None
    ) -> None:
        self.communicator, self.size = communicator, communicator.size
        self.process, self._chain = process, process
        if layout == "sharded":
            self.process = self.layout = ShardedProcess(process, communicator)
        self._sub_batch = sub_batch
        self._known: dict[int, DriftSpec] = {}
        """Descriptions of drifts that all ranks have, by their digest."""

    def __call__(self, states: Sequence[State]) -> list[Drift]:
        """Evaluate this rank's part, and take what the others found."""
        communicator, self.seconds = self.communicator, 0.0
        while True:
            dealt = deal(len(states), self._sub_batch, communicator.size)
            slots = [[i for a, b in batches for i in range(a, b)] for batches in dealt]
            mine = slots[communicator.rank]
            with self._exchanging():
                whole = dict(zip(mine, exchange.bring(communicator, states, slots), strict=True))
            batches = [[whole[i] for i in range(a, b)] for a, b in dealt[communicator.rank]]
            drifts, failed = _try(self._chain, batches)
            if failed and communicator.size == 1:
                raise failed
            with self._exchanging():
                specs = self._agree([whole[i] for i in mine], drifts, failed, slots)
                if specs is not None and drifts is not None:
                    return exchange.share(communicator, states, drifts, specs, slots)
            self._sub_batch = halved(max(b - a for batches in dealt for a, b in batches))

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def _agree(
        self, states: Sequence[State], drifts: list[Drift] | None, failed: BaseException | None, slots: Slots
    ) -> list[list[DriftSpec]] | None:
        """What the drifts of each rank look like; ``None`` where a batch was too large for some rank.

        Args:
            states: of this rank's slots.
            drifts: of these states; ``None`` where they did not fit, or evaluating them failed.
            failed: what was raised.
            slots: [R] of each rank.

        Raises:
            RankFailed: a rank raised.
        """
        specs = [exchange.describe(d, z) for d, z in zip(drifts, states, strict=True)] if drifts else []
        keys = [exchange.digest(spec) for spec in specs]
        status = FAILED if failed else TOO_LARGE if drifts is None else FITS
        width = max(map(len, slots))
        gathered = self.communicator.all_gather(torch.tensor([status, *keys, *[0] * (width - len(keys))]))
        table = torch.stack(gathered).tolist()
        statuses = [row[0] for row in table]
        if FAILED in statuses:
            told = "".join(traceback.format_exception(failed)) if failed else ""
            texts = self.communicator.all_gather_object(told)
            rank = statuses.index(FAILED)
            raise RankFailed(rank, texts[rank]) from failed
        if TOO_LARGE in statuses:
            return None
        rows = [row[1 : 1 + len(places)] for row, places in zip(table, slots, strict=True)]
        if any(key not in self._known for row in rows for key in row):
            described = self.communicator.all_gather_object([exchange.to_json(spec) for spec in specs])
            for row, values in zip(rows, described, strict=True):
                self._known.update(zip(row, map(exchange.from_json, values), strict=True))
        return [[self._known[key] for key in row] for row in rows]


def distributed(
    group: dist.ProcessGroup | None = None,
    *,
    layout: str = "replicated",
    sub_batch: int | None = None,
    timeout: float = TIMEOUT,
) -> Distributed:
    """Evaluate on all processes that ``torchrun`` started, each a part of the window in one batch.

    Args:
        group: of ``torch.distributed``; ``None``: all processes of the job, which meet if they have not yet (NCCL
            between GPUs, gloo between CPUs).
        layout: ``replicated``: every rank rolls out everything, and a round exchanges all drifts: a rank sends
            (R - 1) W N / R numbers. ``sharded``: a rank keeps 1/R of parameters, moments and trajectory, and a
            round exchanges parts of states and of drifts: 2 (R - 1) W N / R^2 numbers. The results are the same.
        sub_batch: most states in one batch; ``None``: all of a rank's part, or with ``tolerance=0``, whose promise a
            batch's rounding would break, one. Given, the result does not depend on the number of ranks to the last
            bit.
        timeout: seconds that a rank may be silent before it is named and the run ends.

    Returns:
        An evaluator for ``solve``, which every rank must call with the same arguments.

    Raises:
        ValueError: an argument is out of range.
    """
    return Distributed(group, layout, sub_batch, timeout)


def deal(count: int, sub_batch: int | None, ranks: int) -> list[Batches]:
    """The batches of each rank: even parts of the window; with ``sub_batch`` the same batches for any R."""
    if sub_batch is None:
        ends = [count * r // ranks for r in range(ranks + 1)]
        return [[(a, b)] if b > a else [] for a, b in pairwise(ends)]
    batches = cut(count, sub_batch)
    ends = [len(batches) * r // ranks for r in range(ranks + 1)]
    return [batches[a:b] for a, b in pairwise(ends)]


def digest(state: State) -> str:
    """A short name for the values of a state."""
    found = hashlib.sha256()
    for part in (state.params, state.moments, state.buffers):
        for name, tensor in part.items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return found.hexdigest()[:12]


def _check_same_start(communicator: Communicator, first: State) -> None:
    """See that all ranks begin alike.

    Raises:
        ValueError: they do not.
    """
    gathered = communicator.all_gather_object([digest(first), first.step, torch.get_num_threads()])
    for what, values in zip(("state", "step", "number of threads"), zip(*gathered, strict=True), strict=True):
        if len(set(values)) > 1:
            raise ValueError(
                f"all ranks must begin with the same {what}, got {', '.join(map(str, values))}; seed what makes "
                "the state, or give evaluator=dp.evaluate.serial for a chain of its own on each rank"
            )


def _try(
    process: Process, batches: Sequence[Sequence[State]]
) -> tuple[list[Drift] | None, BaseException | None]:
    """The drifts, ``None`` where they do not fit in memory; and what was raised, for all ranks to hear."""
    try:
        return attempt_all(process, batches), None
    except Exception as error:
        return None, error
