"""Several processes on one machine against the sequential run with all threads: how much faster, and where time goes.

    python benchmarks/ranks.py --ranks 2

The main job ("a red torus") is solved in turns: step by step by the first process with the threads of all of them,
while the others sleep; then by all of them, each with its share of the threads. Seconds are those of the rounds; the
ratio is of the medians. Render, guidance and gradient are the parts of the drifts on the first process.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from common import SCENES, cores_each, experiment, start_ranks, table

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import destroy_process_group
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.runs.experiment import make_process

ROWS = ("render", "guidance", "gradient", "exchange", "rollout", "guess", "error")


def timed(function: Callable[..., Any], spent: Counter[str], name: str) -> Callable[..., Any]:
    """A function that adds what it takes to a name."""

    def call(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[name] += time.perf_counter() - began

    return call


def laps(stats: dp.Stats, spent: Counter[str], workers: int) -> dict[str, float]:
    """Where the time of a run went; parts of a drift that threads took side by side count as one's."""
    found = {name: spent[name] / workers for name in ("render", "guidance")}
    found["gradient"] = stats.laps["drift"] - sum(found.values())
    return found | {name: stats.laps.get(name, 0.0) for name in ROWS if name not in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", default="latent", help=f"{', '.join(SCENES)}, or a config")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layout", default="replicated")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="dot-list overrides of the config, after --")
    args = parser.parse_args()
    start_ranks(args.ranks, cores_each(args.ranks))
    init_process_group(torch.device("cpu"))
    ranks, threads = Communicator(), torch.get_num_threads()
    chosen = experiment(args.scene, "a red torus", args.overrides)
    process, parallel, steps = make_process(chosen), chosen.config.parallel, chosen.config.trainer.max_steps
    spent: Counter[str] = Counter()
    process.renderer = timed(process.renderer, spent, "render")
    object.__setattr__(process.guidance, "gradient", timed(process.guidance.gradient, spent, "guidance"))
    runs: dict[str, list[dict[str, float]]] = {"sequential": [], "parallel": []}
    rounds = 0
    for turn in range(args.repeat + 1):  # the first turn does not count
        if ranks.rank == 0:
            torch.set_num_threads(threads * ranks.size)
            spent.clear()
            stats = dp.solve_sequential(process, steps).stats
            found = {"all": stats.wall_seconds} | laps(stats, spent, 1)
            runs["sequential"] += [found] if turn else []
            torch.set_num_threads(threads)
        ranks.wait_for_main(f"turn {turn}")
        spent.clear()
        evaluator = dp.evaluate.distributed(layout=args.layout)
        ranks.any(False)
        stats = dp.solve(process, steps, parallel.window, parallel.tolerance, evaluator=evaluator).stats
        found = {"all": stats.wall_seconds} | laps(
            stats, spent, min(threads, max(stats.windows) // ranks.size)
        )
        runs["parallel"] += [found] if turn else []
        rounds = stats.num_rounds
    if ranks.rank == 0:
        taken = {
            way: {name: median(run[name] for run in found) for name in found[0]}
            for way, found in runs.items()
        }
        ways = [
            f"sequential, {threads * ranks.size} threads",
            f"{ranks.size} processes of {threads} thread(s)",
        ]
        print(
            table(["seconds in", *ways], [[n, *(f"{taken[w][n]:.2f}" for w in runs)] for n in (*ROWS, "all")])
        )
        ratios = sorted(
            s["all"] / p["all"] for s, p in zip(runs["sequential"], runs["parallel"], strict=True)
        )
        print(
            f"\n{taken['sequential']['all'] / taken['parallel']['all']:.2f} times faster by the clock "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {args.repeat} turns), {steps} steps in {rounds} rounds"
        )
    destroy_process_group()


if __name__ == "__main__":
    main()
