"""Use all cores of a CPU for a window: one batch a core instead of one batch over all cores.

Most operations on a small batch are below the size that PyTorch splits over threads, and the others wait for the
slowest thread at their end: two batches on a core each finish well before one batch of twice the size on both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import psutil
import torch

LOOK_SECONDS = 0.1
"""How long to look at what else runs, where the load says that there is something."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def split_over_cores(items: Sequence[Item], device: torch.device) -> list[Sequence[Item]]:
    """Split items into as many even shares as PyTorch uses threads; one share on other devices than the CPU."""
    count = min(torch.get_num_threads(), len(items)) if device.type == "cpu" else 1
    ends = [len(items) * i // count for i in range(count + 1)]
    return [items[a:b] for a, b in pairwise(ends)]


def over_cores(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map a function over items at the same time, one thread each; a single item is computed here, with all threads.

    Args:
        function: of one item; it must not draw from global random state.
        items: at most as many as PyTorch uses threads.
    """
    if len(items) == 1:
        return [function(items[0])]
    return list(_pool(torch.get_num_threads()).map(function, items))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers that use one thread each."""
    everyone = Barrier(threads)

    def begin() -> None:
        # a thread takes PyTorch's number at its first look, which would overwrite one that was set before
        torch.get_num_threads()
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(threads, "cores")
    for started in [pool.submit(begin) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(threads)  # what a worker sets is also what threads made later would begin with
    return pool


def use_all_cores() -> int:
    """Let torch use every core this process may run on, unless OMP_NUM_THREADS says otherwise.

    Returns:
        The number of threads.
    """
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def oversubscribed() -> str | None:
    """A line that says so where other programs leave fewer cores than PyTorch has threads: an operation waits for its
    slowest thread, so that two on a core and a half can be slower than one. None where there is room or no telling."""
    threads = torch.get_num_threads()
    if threads == 1 or "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return None
    mine = os.sched_getaffinity(0)
    room = len(mine) - threads + 0.5
    if os.getloadavg()[0] <= room:
        return None
    # the load is that of the last minute, and what made it may have ended: an earlier run of this program, say
    now = psutil.cpu_percent(LOOK_SECONDS, percpu=True)
    busy = sum(now[core] for core in mine if core < len(now)) / 100
    if busy <= room:
        return None
    fewer = f"OMP_NUM_THREADS={max(1, math.floor(len(mine) - busy))}"
    return f"other programs keep {busy:.1f} of {len(mine)} cores busy; {fewer} may be quicker than {threads}"
