"""How the processes of one job come to know of each other, and what is told where some do not come."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dreamprop import errors
from dreamprop.distributed import process_group

PATIENT = 5.0
"""Seconds of waiting for processes to meet before it is told."""
SLACK = 120.0
"""Seconds that PyTorch waits longer than we do, so that ours is the message."""


def init_process_group(device: torch.device, timeout: float = process_group.TIMEOUT) -> None:
    """Meet the other processes that ``torchrun`` started, unless that was done before.

    Args:
        device: whose memory holds the tensors: NCCL between GPUs, gloo between CPUs.
        timeout: seconds that a rank may be silent.
    """
    if process_group.is_single_process():
        return
    if dist.is_initialized():
        process_group.initialized = True
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    longest = timedelta(seconds=timeout + SLACK)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _first_store(rank, size, timeout)
    # the launcher keeps its store when it starts processes again, with the addresses of the dead ones in it; its count
    # of restarts is no name for a meeting, since each node counts for itself
    store = dist.PrefixStore(f"dreamprop/{rendezvous_name(store, rank, size, timeout)}", store)
    process_group.initialized = True
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=longest)


def _first_store(rank: int, size: int, timeout: float) -> dist.Store:
    """Where the ranks meet: the launcher's store, or, where none has started them, one that the first rank opens."""
    longest = timedelta(seconds=timeout + SLACK)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        return next(rendezvous("env://", timeout=longest))[0]
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = _Patience(timeout)
    while True:
        try:
            if rank:  # PyTorch would knock for us, but nobody hears a signal meanwhile
                socket.create_connection((host, port), timeout=1).close()
        except OSError:
            patience([0])
        else:
            return dist.TCPStore(
                host, port, size, rank == 0, longest, wait_for_workers=False, multi_tenant=True
            )


class _Patience:
    """Waits for ranks to meet, tells of it, and has an end.

    Args:
        timeout: seconds until a rank counts as lost.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout, self._began, self._told = timeout, time.monotonic(), False

    def __call__(self, missing: Sequence[int]) -> None:
        """Wait a moment longer for the missing ranks."""
        waited = time.monotonic() - self._began
        if waited > self._timeout:
            raise errors.RankLost(missing, f"must arrive within {self._timeout:g} s, got nothing")
        if waited > PATIENT and not self._told:
            self._told = True
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            names = ", ".join(map(str, missing))
            print(f"note: waiting for rank {names} at {place}, {self._timeout:g} s at most", file=sys.stderr)
        time.sleep(0.01)


def rendezvous_name(store: dist.Store, rank: int, size: int, timeout: float) -> str:
    """A name for this meeting that all of its ranks share and no earlier one had: the first rank's, given to each."""
    name, patience = uuid4().hex, _Patience(timeout)
    if rank:
        store.set(f"dreamprop/hello/{rank}", name)
        while not store.check([f"dreamprop/welcome/{name}"]):
            patience([0])
        found = store.get(f"dreamprop/welcome/{name}").decode()
        store.set(f"dreamprop/here/{found}/{rank}", "here")
        return found
    greeted: dict[int, str] = {}
    while missing := [r for r in range(1, size) if not store.check([f"dreamprop/here/{name}/{r}"])]:
        for other in missing:
            key = f"dreamprop/hello/{other}"
            hello = store.get(key).decode() if store.check([key]) else None
            if hello is not None and hello != greeted.get(other):  # that of a dead one may lie there first
                store.set(f"dreamprop/welcome/{hello}", name)
                greeted[other] = hello
        patience(missing)
    return name
