"""Solve every case on 1, 2, 3 and 4 processes: ``python fleet.py FOLDER`` leaves each rank's result there.

One process imports everything and forks the ranks.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dreamprop as dp
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.evaluate.distributed import digest
from dreamprop.utils import foreach
from tests.distributed.cases import CASES, ways
from tests.distributed.forks import forked

RANKS = (1, 2, 3, 4)


def told(solution: dp.Solution) -> list[str]:
    """A result in short: names, types, shapes and every bit of the state, and what the rounds did."""
    return [digest(solution.state), str(solution.stats.strides), str(solution.stats.errors)]


def work(folder: Path, made: dict[str, dp.Process]) -> None:
    """What one rank does."""
    init_process_group(torch.device("cpu"), timeout=60)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    results = {}
    for name, (make, steps, arguments, sub_batch) in CASES.items():
        foreach.PIECE = piece(name)
        for way in ways(name):
            evaluator = dp.evaluate.distributed(layout=way, sub_batch=sub_batch, timeout=60)
            process = made.get(name) or make()
            results[f"{name}/{way}"] = told(dp.solve(process, steps, evaluator=evaluator, **arguments))
    (folder / f"{size}-{rank}.json").write_text(json.dumps(results))


def piece(name: str) -> int:
    """Elements that are never cut apart: few, so that small chains are cut."""
    return 1 << 13 if "grid" in name else 64


def is_distillation(name: str) -> bool:
    """Whether a case has a diffusion model."""
    return "grid" in name or name == "Gaussians"


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    made = {
        name: case[0]() for name, case in CASES.items() if is_distillation(name)
    }  # their model is loaded once
    failed = 0
    for size in RANKS:
        failed += forked(size, partial(work, folder, made))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
