"""Ranks of one job as forks of a process that has imported everything already; they meet over gloo as those of
``torchrun`` do."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def forked(size: int, work: Callable[[], None]) -> int:
    """Let so many ranks do the same; how many of them failed, each with its traceback."""
    port, children = free_port(), []
    for rank in range(size):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        status = 1
        try:
            work()
            dist.destroy_process_group() if dist.is_initialized() else None
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)
