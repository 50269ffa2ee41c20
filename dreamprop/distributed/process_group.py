"""The process group of ``torch.distributed``: begun, ended, and its store."""

from __future__ import annotations

import os
from functools import cache

import torch.distributed as dist

TIMEOUT = 600.0
"""Seconds to wait for another rank."""
initialized = False
"""Whether this process has met others."""


def is_single_process() -> bool:
    """Whether this process is a job of its own: no group was started, and no launcher speaks of other processes."""
    return not (dist.is_available() and dist.is_initialized()) and int(os.environ.get("WORLD_SIZE", "1")) == 1


def destroy_process_group() -> None:
    """Part from the other processes, if there are any; what this process does from here on it does alone."""
    if dist.is_available() and dist.is_initialized():
        cpu_group.cache_clear()
        dist.destroy_process_group()


@cache
def cpu_group(group: dist.ProcessGroup | None, world: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """A group of the same ranks that can send from CPU to CPU, made once; only these ranks must ask for it.

    Args:
        group: of ``torch.distributed``, whose ranks belong to as many groups each; ``None``: all ranks of the job.
        world: the group of all ranks, by which jobs that a process takes part in one after another are told apart.
    """
    if "cpu" in dist.get_backend_config(group):
        return group
    ranks = dist.get_process_group_ranks(group or world)
    # only the ranks of the group come here: those outside of it must not be waited for. PyTorch then names the new
    # group by how many groups a rank belongs to, which says nothing where all ranks come and may differ there
    some = len(ranks) < dist.get_world_size()
    return dist.new_group(ranks, backend="gloo", use_local_synchronization=some)


def default_store() -> dist.Store:
    """The store at which the processes met; PyTorch has no public name for it."""
    return dist.distributed_c10d._get_default_store()
