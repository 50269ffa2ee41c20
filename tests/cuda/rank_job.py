"""What one rank of ``test_exchange.py`` does: ``python rank_job.py DEVICE`` under the variables of ``torchrun``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dreamprop as dp
from dreamprop.distributed import communicator
from tests.cuda.chain import Chain


def told(state: dp.State) -> dict[str, list[str]]:
    """Device and bits of each tensor, by name."""
    parts = {**state.params, **state.moments, **state.buffers}
    return {
        name: [
            t.device.type,
            hashlib.sha256(t.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12],
        ]
        for name, t in parts.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    kind, rank, size = sys.argv[1], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    process = Chain(device, host=True)
    expected = told(dp.solve(process, 20, 4, evaluator="serial").state)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", rank=rank, world_size=size)
    # what the layouts are built on, also where one rank has nobody to exchange with
    mine = torch.full((4,), rank, device=device)
    everyone = torch.empty(4 * size, dtype=mine.dtype, device=device)
    communicator.GATHER(everyone, mine)
    assert everyone.tolist() == [r for r in range(size) for _ in range(4)]
    found = {}
    for layout in ("replicated", "sharded"):
        evaluator = dp.evaluate.distributed(layout=layout, sub_batch=1, timeout=120)
        found[layout] = told(dp.solve(process, 20, 4, evaluator=evaluator).state)
    print(json.dumps({"expected": expected, **found}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
