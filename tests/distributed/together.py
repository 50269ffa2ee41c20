"""What three ranks settle together: ``python together.py FOLDER`` leaves what each of them found there."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.errors import InputError
from tests.distributed.forks import forked


def work(folder: Path) -> None:
    """What one rank does."""
    os.environ["LOCAL_WORLD_SIZE"] = "3"
    init_process_group(torch.device("cpu"), timeout=30)
    rank = int(os.environ["RANK"])
    found = {"groups": groups(rank), "endings": endings(Communicator(timeout=30))}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def groups(rank: int) -> list[list[int]]:
    """What the ranks of a group tell each other where only they meet, on groups that cannot send between CPUs."""
    told = []
    for ranks in ([0, 2], [0, 1, 2]):
        group = dist.new_group(ranks)
        if rank in ranks:
            real, dist.get_backend_config = dist.get_backend_config, lambda group=None: "cuda:nccl"
            told.append(Communicator(group, timeout=30).all_gather_object(rank))
            dist.get_backend_config = real
    return told


def endings(communicator: Communicator) -> list[str]:
    """What each rank raises where the first one raises in a block of its own, and how many threads it has then."""
    raised = []
    for i, error in enumerate(
        [None, InputError("x must be 1, got 2; use 1"), KeyError("ours"), KeyboardInterrupt()]
    ):
        told = "nothing"
        try:
            with coordination.main_process_first(communicator, f"block {i}") as mine:
                if mine and torch.get_num_threads() != 3:
                    raise AssertionError("the first rank has the threads of all")
                if mine and error is not None:
                    raise error
        except BaseException as seen:
            told = f"{type(seen).__name__}: {seen}"
        raised.append(f"{told} ({torch.get_num_threads()})")
    return raised


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(forked(3, partial(work, Path(sys.argv[1]))))
