"""What many devices should buy, on paper: seconds a round and the speed-up, from measured strides and costs.

    python benchmarks/model.py                 # or --step 0.5 --numbers 50 --gain 1.5 with numbers of your own

A round is its slowest rank's drifts, then the exchange, the rollout with error and guess, and the small messages:

    t_round  = ceil(W / R) t_drift / gain + exchange + rollout + messages
    speed-up = stride * t_step / t_round

Nothing here was timed on a GPU: every constant below says where it comes from, and which are assumptions.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import ceil

from common import table

NUMBERS = 12.6e6
"""N: configs/dreamfusion-sd.yaml, 16 levels of at most 2^19 entries of two numbers, float32."""
STEP = 0.18
"""Seconds: DreamFusion on one A100 takes about 30 minutes (github.com/THU-LYJ-Lab/T3Bench/issues/4). Assumed: that
those are the 10000 steps of batch 1 in threestudio's config."""
NVLINK, PCIE = 200e9, 20e9
"""Bytes a second through a rank: 8 A100 over NVSwitch (github.com/NVIDIA/nccl-tests/issues/149), and A100s that must go
over PCIe (issue 178 there). Both are bus bandwidths of large all-reduces; assumed for other collectives."""
INFINIBAND, ETHERNET = 85e9, 10e9
"""Bytes a second through a node: 3 nodes of 8 A100 with four 200 Gbit/s cards (nccl-tests/issues/119); the second is
assumed: 100 Gbit/s at four fifths of it."""
MEMORY = 1.5e12
"""Bytes a second of GPU memory: an A100 80 GB's data sheet says 2.0e12; three quarters of it are assumed."""
PASSES, ENGINE = 7, 1.5
"""Tensors that a step of Adam reads and writes; what the engine costs in bare steps (benchmarks/engine.py: 1.3 to 1.6,
on a CPU)."""
MESSAGES = 0.01
"""Seconds a round for a dozen small messages between CPUs. Assumed: benchmarks/exchange.py --parameters 0.001 finds
0.02 to 0.03 where four ranks share two busy cores."""

STRIDES = {
    "hash": {8: 5.5, 16: 6.0, 32: 6.0, 64: 6.0},
    "voxel": {8: 7.3, 16: 11.4, 32: 12.4, 64: 13.7},
    "voxel, slow": {8: 7.7, 16: 14.3, 32: 21.4, 64: 33.3},
}
"""Steps a round by window, measured with benchmarks/frontier.py on the pixel model: the hash grid, 60 steps at
rate 0.02, rule step 1; the voxel grid, 80 steps, rule step 1.5 (both in docs/benchmarks.md); the latter with small
steps, one prompt, by --windows 8 16 32 64 --rules step:1.5 -- system.optimizer.args.lr=0.02 trainer.max_steps=300."""
AT_SEVEN = {"hash": 4.6, "voxel": 5.7}
"""The same at window 7 as published: --windows 7 --predictors hold --rules paper:30, the hash grid at rate 0.02."""

PUBLISHED = {
    "the most of any (arXiv:2311.17082)": (STEP, 4.7),
    "DreamGaussian, batch 16, 500 steps, 11 to 2 minutes": (11 * 60 / 500, 11 / 2),
    "ProlificDreamer, 70000 steps, 9 h 28 to 2 h 13": (568 * 60 / 70000, 568 / 133),
}
"""Seconds a step and speed-up on 8 A100 of which 7 evaluate, window 7; the seconds of the first are DreamFusion's,
assumed."""


@dataclass(frozen=True)
class Machine:
    """Devices and what connects them."""

    name: str
    nodes: int
    local: int
    """Devices a node."""
    inside: float
    """Bytes a second through a rank to others of its node."""
    between: float = 0.0
    """Bytes a second through a node to others."""

    @property
    def ranks(self) -> int:
        """R."""
        return self.nodes * self.local


MACHINES = [
    Machine("8 GPUs, NVLink", 1, 8, NVLINK),
    Machine("8 GPUs, PCIe", 1, 8, PCIE),
    Machine("4 nodes of 8, InfiniBand", 4, 8, NVLINK, INFINIBAND),
    Machine("4 nodes of 8, Ethernet", 4, 8, NVLINK, ETHERNET),
    Machine("8 nodes of 8, InfiniBand", 8, 8, NVLINK, INFINIBAND),
    Machine("8 nodes of 8, Ethernet", 8, 8, NVLINK, ETHERNET),
]


def sent(layout: str, window: int, ranks: int) -> float:
    """Numbers that a rank sends a round, in N: what benchmarks/exchange.py counts."""
    whole = (ranks - 1) * window / ranks
    return whole if layout == "replicated" else 2 * whole / ranks


def exchange(layout: str, window: int, machine: Machine, numbers: float) -> float:
    """Seconds: the slower of what goes through a rank and what goes through a node."""
    size, ranks = 4 * numbers, machine.ranks
    through = sent(layout, window, ranks) * size
    if machine.nodes == 1:
        return through / machine.inside
    if layout == "replicated":  # a ring: all of it passes every edge once
        return max(through / machine.inside, through / machine.between)
    across = machine.local * through * (ranks - machine.local) / (ranks - 1)
    return max(through / machine.inside, across / machine.between)


def rollout(layout: str, window: int, ranks: int, numbers: float) -> float:
    """Seconds of rollout, error and guess."""
    share = 1 if layout == "replicated" else ranks
    return ENGINE * window * PASSES * 4 * numbers / share / MEMORY


def parts(layout: str, window: int, machine: Machine, args: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds of a round: drifts, exchange, and the rest."""
    batch = ceil(window / machine.ranks)
    drifts = batch * args.step / (args.gain if batch > 1 else 1.0)
    rest = rollout(layout, window, machine.ranks, args.numbers * 1e6) + MESSAGES
    return drifts, exchange(layout, window, machine, args.numbers * 1e6), rest


def predict(machine: Machine, window: int, args: argparse.Namespace) -> list[list[str]]:
    """A row for each layout."""
    rows = []
    for layout in ("replicated", "sharded"):
        times = parts(layout, window, machine, args)
        gains = [stride[window] * args.step / sum(times) for stride in STRIDES.values()]
        rows.append(
            [
                machine.name,
                str(window),
                layout,
                f"{sent(layout, window, machine.ranks):.2f} N",
                *(f"{1e3 * t:.0f}" for t in times),
                *(f"{g:.1f}" for g in gains),
            ]
        )
    return rows


def check(args: argparse.Namespace) -> list[list[str]]:
    """The published runs: what stride they come to in this model, and what it gives for those measured."""
    rows = []
    for name, (step, speedup) in PUBLISHED.items():
        own = argparse.Namespace(**vars(args) | {"step": step})
        efficiency = step / sum(parts("replicated", 7, Machine("", 1, 7, NVLINK), own))
        found = [speedup / efficiency, *(stride * efficiency for stride in AT_SEVEN.values())]
        rows.append([name, f"{step:.2f}", f"{speedup:.1f}", *(f"{value:.1f}" for value in found)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", type=float, default=STEP, help="seconds of a sequential step")
    parser.add_argument("--numbers", type=float, default=NUMBERS / 1e6, help="N, in millions")
    parser.add_argument("--gain", type=float, default=1.0, help="of a batch of states over one by one")
    args = parser.parse_args()
    rows = [row for machine in MACHINES for row in predict(machine, machine.ranks, args)]
    rows += [row for window in (16, 32) for row in predict(MACHINES[0], window, args)]
    header = ["devices", "W", "layout", "a rank sends", "drifts, ms", "exchange", "rest"]
    print(table([*header, *STRIDES], rows), "\n")
    header = ["published, 7 of 8 A100", "s a step", "speed-up", "its stride in the model"]
    print(table([*header, *(f"model, {name} {s}" for name, s in AT_SEVEN.items())], check(args)), "\n")
    bytes_ = [[f"{r}", f"{w}", *(f"{sent(k, w, r):.2f} N" for k in ("replicated", "sharded"))]
              for r, w in ((2, 8), (4, 8), (8, 8), (32, 32), (64, 64))]  # fmt: skip
    print(table(["R", "W", "replicated", "sharded"], bytes_))


if __name__ == "__main__":
    main()
