"""The processes of one job on ``torch.distributed``: who they are, and how they tell each other things.

Every rank runs the same program and calls the same methods here in the same order. Small things travel between
CPUs, and there a rank waits no longer than its patience: a rank that is silent is named, not waited for.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dreamprop.distributed.process_group import TIMEOUT, cpu_group, default_store
from dreamprop.errors import InputError, RankFailed, RankLost
from dreamprop.utils import cpu_allocator

BEAT = 1.0
"""Seconds between two signs of life of a rank that waits."""
QUICK, SLOW = 2e-5, 2e-3
"""Seconds between two looks at whether something has come: by how much longer each time, and the longest."""
FAREWELL = 5.0
"""Seconds that the first rank waits for the others to hear why it ends."""
GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""One tensor in, one out: PyTorch copies lists of them twice. Its name since PyTorch 2.13, or the one before."""
_made: Counter[tuple[int, ...]] = Counter()
"""Communicators made so far, by the ranks of their groups."""


class Communicator:
    """The processes that solve one chain together.

    Args:
        group: of ``torch.distributed``; ``None``: all processes of the job, or this one alone.
        timeout: seconds to wait for another rank before it is named and the run ends.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, timeout: float = TIMEOUT) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout must be > 0 seconds, got {timeout}; use {TIMEOUT:g}")
        together = dist.is_available() and dist.is_initialized()
        self.timeout = timeout
        self.size = dist.get_world_size(group) if together else 1
        self.rank = dist.get_rank(group) if together else 0
        self.bytes_sent = 0
        """Bytes this rank has handed to others."""
        if self.rank < 0:
            raise ValueError("group must hold this rank, got one without it; call solve on its ranks only")
        self._group, self._arrivals = group, 0
        self._small = cpu_group(group, dist.group.WORLD) if self.size > 1 else None
        ranks = tuple(dist.get_process_group_ranks(group or dist.group.WORLD)) if self.size > 1 else ()
        _made[ranks] += 1
        # what other groups make is not known to all ranks of this one
        self._key = f"dreamprop/{sha256(repr(ranks).encode()).hexdigest()[:16]}/{_made[ranks]}"

    def all_gather(self, block: Tensor) -> list[Tensor]:
        """Blocks [R] of one shape, of all ranks."""
        if self.size == 1:
            return [block]
        self.bytes_sent += block.numel() * block.element_size() * (self.size - 1)
        room = cpu_allocator.empty(self.size * block.numel() * block.element_size(), block.device)
        blocks = room.view(block.dtype).view(self.size, *block.shape)
        flat = blocks.view(-1)
        self._finish(GATHER(flat, block.reshape(-1), group=self._of(block), async_op=True), block)
        return list(blocks.unbind(0))

    def all_to_all(self, blocks: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Give each rank its block of bytes and take those meant for this one.

        Args:
            blocks: [R] bytes, by receiver; the one for this rank itself stays here.
            sizes: [R] of the blocks that come, by sender.

        Returns:
            [R] bytes, by sender.
        """
        if self.size == 1:
            return [blocks[0]]
        own = blocks[self.rank]
        out = [b.numel() if r != self.rank else 0 for r, b in enumerate(blocks)]
        come = [n if r != self.rank else 0 for r, n in enumerate(sizes)]
        self.bytes_sent += sum(out)
        sending = cpu_allocator.empty(sum(out), own.device)
        for place, block in zip(sending.split(out), blocks, strict=True):
            if place.numel():
                place.copy_(block)
        coming = cpu_allocator.empty(sum(come), own.device)
        self._finish(dist.all_to_all_single(coming, sending, come, out, self._of(own), async_op=True), coming)
        found = list(coming.split(come))
        found[self.rank] = own
        return found

    def broadcast(self, block: Tensor | None, size: int) -> Tensor:
        """So many bytes, on the CPU, of the first rank."""
        if self.size == 1:
            assert block is not None
            return block
        taken = block if self.rank == 0 and block is not None else torch.empty(size, dtype=torch.uint8)
        self.bytes_sent += size * (self.size - 1) if self.rank == 0 else 0
        first = dist.get_process_group_ranks(self._small or dist.group.WORLD)[0]
        self._finish(dist.broadcast(taken, first, self._small, async_op=True), taken)
        return taken

    def all_gather_object(self, value: Any) -> list[Any]:
        """What every rank tells, as JSON: [R] values."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode() or b" "), dtype=torch.uint8)
        sizes = torch.cat(self.all_gather(torch.tensor([text.numel()]))).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: text.numel()] = text
        gathered = self.all_gather(padded)
        return [json.loads(bytes(t[:n].tolist())) for t, n in zip(gathered, sizes, strict=True)]

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether a rank has raised it."""
        if self.size == 1:
            return list(flags)
        gathered = torch.stack(self.all_gather(torch.tensor(flags, dtype=torch.uint8)))
        return [bool(f) for f in gathered.amax(0).tolist()]

    def wait_for_main(self, name: str, failure: BaseException | None = None) -> None:
        """Wait, without a limit, until the first rank has said that it is done with something of its own.

        Args:
            name: of what it does; a new one each time.
            failure: on the first rank, what ended it early; the others raise it too.

        Raises:
            InputError: the first rank refused what the user gave.
            RankFailed: the first rank raised something else.
            RankLost: the first rank is gone.
        """
        if self.size == 1:
            return
        key = f"{self._key}/{name}"
        store, others = default_store(), [f"{key}/{rank}" for rank in range(1, self.size)]
        if self.rank == 0:
            refused = isinstance(failure, InputError)
            lines = (
                [str(failure or "")] if refused or failure is None else traceback.format_exception(failure)
            )
            store.set(key, json.dumps([refused, "".join(lines)]))
            deadline = time.monotonic() + (FAREWELL if failure is not None else 0.0)
            # the store may live in this process, which is about to end
            while time.monotonic() < deadline and not store.check(others):
                time.sleep(0.05)
            return
        try:
            while not store.check([key]):
                time.sleep(0.05)
            refused, reason = json.loads(store.get(key))
            store.set(f"{key}/{self.rank}", "heard")
        except RuntimeError as error:  # the store lived in a process that is gone
            raise RankLost([0], f"is gone ({_first(error)})") from error
        if reason:
            raise InputError(reason) if refused else RankFailed(0, reason)

    def _of(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """The group that can send a tensor from where it lies."""
        return self._small if tensor.device.type == "cpu" else self._group

    def _finish(self, work: Any, tensor: Tensor) -> None:
        """Wait for a collective; for one between CPUs, no longer than the timeout, and open to signals."""
        if tensor.device.type == "cpu":
            self._arrivals += 1
            store = default_store()
            store.set(f"{self._key}/{self.rank}", str(self._arrivals))
            # looked at again and again: only so are signals heard, and no thread of another library touches Python
            beats, pause = self._beats(), 0.0
            deadline = time.monotonic() + self.timeout
            while not work.is_completed() and time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(pause + QUICK, SLOW)
                next(beats)
            if not work.is_completed():
                raise RankLost(
                    self._silent(),
                    f"must answer within {self.timeout:g} s, got nothing; see what it does, or raise the timeout",
                )
        try:
            work.wait()
        except RuntimeError as error:
            raise RankLost(self._silent(), f"is gone ({_first(error)})") from error

    def _beats(self) -> Iterator[None]:
        """Say now and then, each time this is looked at, that this rank still waits."""
        every = min(BEAT, self.timeout / 8)
        last = time.monotonic()
        for beat in count(1):
            while time.monotonic() < last + every:
                yield
            default_store().set(f"{self._key}/{self.rank}/waits", f"{self._arrivals}.{beat}")
            last += every
            yield

    def _silent(self) -> list[int]:
        """Ranks that have not come as far as this one; else those that have, but neither wait nor have left."""
        others = [r for r in range(self.size) if r != self.rank]
        try:
            behind = [r for r in others if int(_read(f"{self._key}/{r}") or 0) < self._arrivals]
            if behind:
                return behind
            before = {r: _read(f"{self._key}/{r}/waits") for r in others}
            beats = self._beats()
            end = time.monotonic() + 3 * min(BEAT, self.timeout / 8)
            while time.monotonic() < end:
                next(beats)
                time.sleep(SLOW)
            still = [r for r in others if _read(f"{self._key}/{r}/waits") == before[r]]
            default_store().set(f"{self._key}/{self.rank}/left", "left")
            return [r for r in still if not _read(f"{self._key}/{r}/left")] or still
        except RuntimeError:  # the store lived in a process that is gone
            return others


def _read(key: str) -> str:
    """What somebody has left under a key of the store; nothing where nobody has."""
    return default_store().get(key).decode() if default_store().check([key]) else ""


def _first(error: BaseException) -> str:
    """The reason in short, without where in somebody's source it arose."""
    return re.sub(r"^\[\S+\] ", "", str(error).strip()).split(". ")[0].splitlines()[0] or type(error).__name__
