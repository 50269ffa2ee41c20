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
    """Whether this process is a job of its own."""
    return not (dist.is_available() and dist.is_initialized()) and int(os.environ.get("WORLD_SIZE", "1")) == 1


def destroy_process_group() -> None:
    """Part from the other processes; what is done from here on is done alone."""
    if dist.is_available() and dist.is_initialized():
        cpu_group.cache_clear()
        dist.destroy_process_group()


@cache
def cpu_group(group: dist.ProcessGroup | None, world: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """A group of the same ranks that can send from CPU to CPU; one for each job that a process takes part in."""
    if "cpu" in dist.get_backend_config(group):
        return group
    return dist.new_group(dist.get_process_group_ranks(group or world), backend="gloo")


def default_store() -> dist.Store:
    # there is no public name for the store that the processes met at
    return dist.distributed_c10d._get_default_store()
