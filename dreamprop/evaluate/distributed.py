"""Evaluate the drifts of a window on all processes at the same time.

SPMD on ``torch.distributed``: every rank runs the whole loop and evaluates its part of the window, and what it found
goes to the others in one exchange a round. Batches are cut from the window before they are dealt out, so with the
same ``sub_batch`` the result is bit for bit the same on any number of ranks.

Legend: R ranks, W steps of the window, N elements of all parameters.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dreamprop.distributed import flat_buffer
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import TIMEOUT
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.distributed.sharding import ShardedProcess, ShardedState, ShardSpec
from dreamprop.errors import RankFailed
from dreamprop.evaluate.evaluation import Evaluation
from dreamprop.evaluate.sub_batch import attempt_all, check_sub_batch, cut, halved
from dreamprop.process import Process
from dreamprop.state import Drift, State
from dreamprop.utils import cpu_allocator

LAYOUTS = ("replicated", "sharded")
FITS, TOO_LARGE, FAILED = range(3)
Batches = list[tuple[int, int]]
"""Slots of the window from and to, by batch."""


@dataclass(frozen=True)
class Distributed:
    """The drifts of all states, each evaluated by one rank and known to all; see ``distributed``."""

    group: dist.ProcessGroup | None
    layout: str
    sub_batch: int | None
    timeout: float

    def __post_init__(self) -> None:
        check_sub_batch(self.sub_batch)
        if self.layout not in LAYOUTS:
            raise ValueError(
                f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}; use replicated"
            )

    def start(self, process: Process, first: State, exact: bool) -> DistributedEvaluation:
        """The evaluation of a run; all ranks must ask together.

        Raises:
            ValueError: the ranks begin from different states, or the process does not suit the layout.
        """
        init_process_group(next(iter(first.params.values())).device, self.timeout)
        communicator = Communicator(self.group, self.timeout)
        gathered = communicator.all_gather_object([_digest(first), first.step, torch.get_num_threads()])
        for what, values in zip(
            ("state", "step", "number of threads"), zip(*gathered, strict=True), strict=True
        ):
            if len(set(values)) > 1:
                raise ValueError(
                    f"all ranks must begin with the same {what}, got {', '.join(map(str, values))}; seed what makes "
                    "the state, or give evaluator=dp.evaluate.serial for a chain of its own on each rank"
                )
        # the rounding of a batch would break the promise of an exact run
        sub_batch = 1 if exact and self.sub_batch is None else self.sub_batch
        return DistributedEvaluation(process, communicator, self.layout, sub_batch)


class DistributedEvaluation(Evaluation):
    """A run whose drifts are evaluated by several ranks, each its part of a window."""

    def __init__(
        self, process: Process, communicator: Communicator, layout: str, sub_batch: int | None
    ) -> None:
        self.chain, self.communicator, self.sub_batch = process, communicator, sub_batch
        self.process = process
        if layout == "sharded":
            self.process = self.layout = ShardedProcess(process, communicator)
        self.size = communicator.size
        self._forms: dict[int, Any] = {}

    def __call__(self, states: Sequence[State]) -> list[Drift]:
        """Evaluate this rank's part, and take what the others found."""
        self.seconds, rank = 0.0, self.communicator.rank
        while True:
            dealt = deal(len(states), self.sub_batch, self.communicator.size)
            slots = [[i for a, b in batches for i in range(a, b)] for batches in dealt]
            with self._exchanging():
                brought = dict(zip(slots[rank], self._bring(states, slots), strict=True))
            drifts, failed = _try(self.chain, [[brought[i] for i in range(a, b)] for a, b in dealt[rank]])
            if failed and self.communicator.size == 1:
                raise failed
            with self._exchanging():
                forms = self._agree(drifts, failed, slots)
                if forms is not None and drifts is not None:
                    return self._share(states, drifts, forms, slots)
            self.sub_batch = halved(max(b - a for batches in dealt for a, b in batches))

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def _bring(self, states: Sequence[State], slots: list[list[int]]) -> list[State]:
        """The whole states of this rank's slots: from "all steps, my parameters" to "my steps, all parameters"."""
        rank = self.communicator.rank
        if not isinstance(states[0], ShardedState):
            return [states[i] for i in slots[rank]]
        plan, params = states[0].plan, states[0].params
        shapes = {n: shape for n, shape in plan.shapes if shape}  # what has no dimension is here already
        device = next(iter(params.values())).device
        out = [
            flat_buffer.pack([states[i].params[n] for i in places for n in shapes], device)
            for places in slots
        ]
        forms = [
            [(params[n].dtype, _length(plan, n, r)) for _ in slots[rank] for n in shapes]
            for r in range(plan.ranks)
        ]
        come = self.communicator.all_to_all(out, [flat_buffer.num_bytes(form) for form in forms])
        parts = [iter(flat_buffer.unpack(p, form)) for p, form in zip(come, forms, strict=True)]
        brought = []
        for i in slots[rank]:
            whole = {n: torch.cat([next(part) for part in parts]).view(shapes[n]) for n in shapes}
            named = {n: whole.get(n, p) for n, p in states[i].params.items()}
            brought.append(State(named, {}, states[i].buffers, states[i].step))
        return brought

    def _agree(
        self, drifts: list[Drift] | None, failed: BaseException | None, slots: list[list[int]]
    ) -> list[list[Any]] | None:
        """What the drifts of each rank look like; ``None`` where a batch was too large for some rank.

        Raises:
            RankFailed: a rank raised.
        """
        forms = [flat_buffer.describe_drift(drift) for drift in drifts or []]
        keys = [_key(form) for form in forms]
        status = FAILED if failed else TOO_LARGE if drifts is None else FITS
        width = max(map(len, slots))
        gathered = self.communicator.all_gather(torch.tensor([status, *keys, *[0] * (width - len(keys))]))
        head = torch.stack(gathered).tolist()
        if any(row[0] == FAILED for row in head):
            texts = self.communicator.all_gather_object(
                "".join(traceback.format_exception(failed)) if failed else ""
            )
            rank = next(r for r, row in enumerate(head) if row[0] == FAILED)
            raise RankFailed(rank, texts[rank]) from failed
        if any(row[0] == TOO_LARGE for row in head):
            return None
        seen = [row[1 : 1 + len(places)] for row, places in zip(head, slots, strict=True)]
        if any(key not in self._forms for row in seen for key in row):
            for row, described in zip(seen, self.communicator.all_gather_object(forms), strict=True):
                self._forms.update(zip(row, described, strict=True))
        return [[self._forms[key] for key in row] for row in seen]

    def _share(
        self, states: Sequence[State], drifts: list[Drift], forms: list[list[Any]], slots: list[list[int]]
    ) -> list[Drift]:
        """The drifts of all slots: whole, or from "my steps, all parameters" to "all steps, my parameters"."""
        communicator = self.communicator
        base = states[0]
        plan = base.plan if isinstance(base, ShardedState) else None
        device = next(iter(base.params.values())).device
        if plan is None:
            come = self._gather(flat_buffer.pack([t for d in drifts for t in _tensors(d)], device), forms)
        else:
            out = [
                flat_buffer.pack([t for d in drifts for t in _tensors(d, plan, r)], device)
                for r in range(communicator.size)
            ]
            come = communicator.all_to_all(out, [_size(row, plan, communicator.rank) for row in forms])
        found: dict[int, Drift] = {}
        for row, places, bytes_ in zip(forms, slots, come, strict=True):
            tensors = iter(
                flat_buffer.unpack(
                    bytes_[: _size(row, plan, communicator.rank)], _shapes(row, plan, communicator.rank)
                )
            )
            for place, (grads, aux) in zip(places, row, strict=True):
                found[place] = Drift(
                    {n: next(tensors) for n, *_ in grads}, {n: next(tensors) for n, *_ in aux}
                )
        if plan is None:  # its own are here, without a copy
            found.update(zip(slots[communicator.rank], drifts, strict=True))
        return [found[i] for i in range(len(states))]

    def _gather(self, mine: Tensor, forms: list[list[Any]]) -> list[Tensor]:
        """The bytes of all ranks, of different lengths."""
        if mine.device.type == "cpu":  # several times faster over gloo than its all-gather is
            return self.communicator.all_to_all(
                [mine] * self.communicator.size, [_size(row, None, 0) for row in forms]
            )
        longest = max(_size(row, None, 0) for row in forms)
        padded = cpu_allocator.empty(longest, mine.device)
        padded[: mine.numel()] = mine
        return self.communicator.all_gather(padded)


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
        sub_batch: most states in one batch; ``None``: all of a rank's part. Given, the result does not depend on
            the number of ranks to the last bit.
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


def _try(
    process: Process, batches: Sequence[Sequence[State]]
) -> tuple[list[Drift] | None, BaseException | None]:
    """The drifts, ``None`` where they do not fit in memory; and what was raised, for all ranks to hear."""
    try:
        return attempt_all(process, batches), None
    except Exception as error:
        return None, error


def _tensors(drift: Drift, plan: ShardSpec | None = None, rank: int = 0) -> list[Tensor]:
    """What a rank is to have of a drift."""
    grads = [plan.part(n, g, rank) if plan else g for n, g in drift.grads.items()]
    return [*grads, *drift.aux.values()]


def _shapes(row: list[Any], plan: ShardSpec | None, rank: int) -> list[tuple[torch.dtype, Sequence[int]]]:
    """Types and shapes of what a rank is to have of the drifts of a row."""
    shapes: list[tuple[torch.dtype, Sequence[int]]] = []
    for grads, aux in row:
        for (name, *_), (dtype, shape) in zip(grads, flat_buffer.dtypes_and_shapes(grads), strict=True):
            shapes.append((dtype, _length(plan, name, rank) if plan and shape else shape))
        shapes += flat_buffer.dtypes_and_shapes(aux)
    return shapes


def _size(row: list[Any], plan: ShardSpec | None, rank: int) -> int:
    return flat_buffer.num_bytes(_shapes(row, plan, rank))


def _length(plan: ShardSpec, name: str, rank: int) -> tuple[int]:
    a, b = plan.spans[name][rank]
    return (b - a,)


def _key(form: Any) -> int:
    """63 bits that stand for a description."""
    return int.from_bytes(hashlib.sha256(json.dumps(form).encode()).digest()[:8], "big") >> 1


def _digest(state: State) -> str:
    """A short name for the values of a state."""
    digest = hashlib.sha256()
    for part in (state.params, state.moments, state.buffers):
        for name, tensor in part.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()[:12]
