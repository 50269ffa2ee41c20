"""The process group of ``torch.distributed``: begun, ended, and its store."""

from __future__ import annotations

import os
from functools import cache

import torch.distributed as dist

PATIENCE = 600.0
"""Seconds to wait for another rank."""
met = False
"""Whether this process has met others."""


def alone() -> bool:
    """Whether this process is a job of its own."""
    return not (dist.is_available() and dist.is_initialized()) and int(os.environ.get("WORLD_SIZE", "1")) == 1


def part() -> None:
    """Part from the other processes; what is done from here on is done alone."""
    if dist.is_available() and dist.is_initialized():
        _between_cpus.cache_clear()
        dist.destroy_process_group()


@cache
def _between_cpus(
    group: dist.ProcessGroup | None, world: dist.ProcessGroup | None
) -> dist.ProcessGroup | None:
    """A group of the same ranks that can send from CPU to CPU; one for each job that a process takes part in."""
    if "cpu" in dist.get_backend_config(group):
        return group
    return dist.new_group(dist.get_process_group_ranks(group or world), backend="gloo")


def _store() -> dist.Store:
    # there is no public name for the store that the processes met at
    return dist.distributed_c10d._get_default_store()
