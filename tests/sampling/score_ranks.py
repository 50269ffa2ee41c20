"""Solve chains of scores on 1, 2 and 3 processes: ``python score_ranks.py FOLDER`` leaves each rank's result there."""

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
from dreamprop.sampling.corrector import Corrector, langevin_chain
from dreamprop.sampling.langevin import Langevin, UnderdampedLangevin
from dreamprop.sampling.mixture import GaussianMixture
from dreamprop.sampling.piadm import block_times, reverse_chain
from dreamprop.sampling.picard_blocks import Block, solve_blocks
from dreamprop.sampling.randomized_midpoint import midpoint_chain
from dreamprop.sampling.score_chain import ScoreChain, gaussian
from tests.distributed.forks import forked

RANKS = (1, 2, 3)


def target() -> GaussianMixture:
    """A mixture in four dimensions."""
    means = torch.arange(12.0).reshape(3, 4).sin() * 2
    return GaussianMixture(means, 0.2 + means.cos() ** 2, torch.tensor([0.2, 0.3, 0.5]))


def chains() -> dict[str, tuple[ScoreChain, list[Block]]]:
    """Chains and their blocks, by name."""
    score, x = target().score, gaussian((5, 4), 0)
    times = block_times(6.0, 0.01, 2, 7)
    ode = {"form": "ode", "sweeps": 3, "corrector": Corrector(num_steps=5, sweeps=2)}
    return {
        "PIADM-SDE": reverse_chain(score, x, times, sweeps=4),
        "PIADM-ODE": reverse_chain(score, x, times, **ode),
        "midpoints": midpoint_chain(score, x, times, midpoints=4, sweeps=1, corrector=Corrector()),
        "Langevin": langevin_chain(score, x, Langevin(), 0.05, 12, block=6, sweeps=3),
        "underdamped": langevin_chain(score, x, UnderdampedLangevin(), 0.4, 3, midpoints=5, sweeps=2),
    }


def work(folder: Path) -> None:
    """What one rank does."""
    init_process_group(torch.device("cpu"), timeout=60)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    evaluator = dp.evaluate.distributed(sub_batch=1, timeout=60)
    found = {
        name: digest(solve_blocks(chain, blocks, evaluator=evaluator).state)
        for name, (chain, blocks) in chains().items()
    }
    (folder / f"{size}-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(min(sum(forked(size, partial(work, Path(sys.argv[1]))) for size in RANKS), 1))
