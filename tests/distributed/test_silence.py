"""A rank that never comes, or that is silent where all have arrived, is named; nobody waits longer than was said."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dreamprop
from tests.cli import toy

from .forks import free_port

MEET = """
import os, sys, time, torch
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import default_store
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.errors import RankLost
init_process_group(torch.device("cpu"), timeout=60)
here = Communicator(timeout=2)
if here.rank == 1:  # as one that is stopped just after it has said that it is there
    default_store().set(f"{here._key}/1", "1")
    time.sleep(12)
    os._exit(0)
try:
    here.all_gather(torch.zeros(1))
except RankLost as lost:
    print(lost.ranks, flush=True)
    time.sleep(2)  # the store lives in the first
os._exit(0)
"""


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC")}
    return outside | {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(dreamprop.__file__).parents[1]),
    }  # fmt: skip


def test_a_rank_that_stops_where_all_have_arrived_is_named() -> None:
    port = free_port()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", MEET], env=environment(rank, 3, port), stdout=subprocess.PIPE, text=True
        )
        for rank in range(3)
    ]
    told = [job.communicate(timeout=100)[0].strip() for job in jobs]
    assert told == ["[1]", "", "[1]"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_without_its_others_is_told(rank: int, tmp_path: Path) -> None:
    """`WORLD_SIZE=2` where no launcher has started the other."""
    (tmp_path / "toy.yaml").write_text(toy.CONFIG)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, toy.__file__, "--config", "toy.yaml", "--train", "parallel.timeout=6"],
        env=environment(rank, 2, free_port()) | {"LOCAL_RANK": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert f"note: waiting for rank {1 - rank} at 127.0.0.1:" in done.stderr
    assert lines[-1].startswith("error: WORLD_SIZE=2 processes must meet at 127.0.0.1:")
    assert f"rank {1 - rank} must arrive within 6 s" in lines[-1] and "unset WORLD_SIZE" in lines[-1]
    assert "Traceback" not in done.stderr and time.monotonic() - began < 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.yaml"]
