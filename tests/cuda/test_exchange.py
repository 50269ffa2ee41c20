"""Exchanges over NCCL (over gloo on CPUs): the same bits as one process, every tensor on the device it was on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

JOB = Path(__file__).with_name("rank_job.py")


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_agree_and_a_buffer_on_the_cpu_stays_there(device: torch.device, size: int) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < size:
        pytest.skip(f"needs {size} GPUs")
    if device.type == "cpu" and size == 1:
        pytest.skip("one rank without a GPU exchanges nothing, and two on the CPU do all that it does")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = []
    for rank in range(size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(JOB), device.type]
        ranks.append(
            subprocess.Popen(
                command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    told = [rank.communicate(timeout=300) for rank in ranks]
    for rank, (out, errors) in zip(ranks, told, strict=True):
        assert rank.returncode == 0, errors
        found = json.loads(out.splitlines()[-1])
        assert found["replicated"] == found["sharded"] == found["expected"]
        assert found["expected"]["steps"][0] == "cpu" and found["expected"]["mean"][0] == device.type
