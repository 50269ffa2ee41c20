"""What a round of several processes costs besides the drifts: bytes and seconds of both layouts.

    python benchmarks/exchange.py --ranks 4 --parameters 1 10

Drifts here cost nothing, so a round is exchange, rollout and error. Bytes are those a rank hands to others, an average
over the rounds and the largest over the ranks; beside them stands what the loopback device of the system counted for
all ranks. Memory is that of moments and trajectory on a rank: the rolled-out states of a window. One thread a rank.
Ratios of one run travel between machines; seconds do not.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from adam_chain import AdamChain
from common import start_ranks, table

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.rendezvous import init_process_group

LAYOUTS = ("replicated", "sharded")


class Free(AdamChain):
    """A chain whose gradients are there already, all accepted: an update is Adam's."""

    def __init__(self, count: int, parts: int = 8) -> None:
        make = torch.Generator().manual_seed(0)
        super().__init__({f"p{i}": torch.randn(count // parts, generator=make) for i in range(parts)}, 1e-2)
        self.held = 0

    def drift(self, state: dp.State) -> dp.Drift:
        return dp.Drift(self.params)

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        made = super().update(state, drift)
        kept = [*made.params.values(), *made.moments.values()]
        self.held = max(self.held, sum(t.numel() * t.element_size() for t in kept))
        return made


def loopback() -> int:
    """Bytes that the loopback device has sent since the system began; 0 where the system does not say."""
    lines = Path("/proc/net/dev").read_text().splitlines() if Path("/proc/net/dev").exists() else []
    return sum(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:"))


def measure(layout: str, count: int, window: int, rounds: int) -> dict[str, Any]:
    """On every rank: rounds of one layout."""
    process, ranks = Free(count), Communicator()
    evaluator = dp.evaluate.distributed(layout=layout)
    seen: list[tuple[float, dict[str, float], int, int]] = []

    def after(round: dp.Round) -> None:
        ranks.any(False)  # all of them are here: what the system counted is that of whole rounds
        seen.append((time.perf_counter(), round.laps, runs[-1].communicator.bytes_sent, loopback()))
        ranks.any(False)

    runs: list[Any] = []
    start = type(evaluator).start

    def noted(self: Any, *args: Any) -> Any:
        runs.append(start(self, *args))
        return runs[-1]

    type(evaluator).start = noted  # type: ignore[method-assign]
    steps = (rounds + 1) * window
    solution = dp.solve(process, steps, window, tolerance=1e9, evaluator=evaluator, callback=after)
    type(evaluator).start = start  # type: ignore[method-assign]
    assert solution.stats.num_rounds == rounds + 1
    first, last = seen[0], seen[-1]
    laps = {
        lap: median(s[1].get(lap, 0.0) for s in seen[1:]) for lap in ("exchange", "rollout", "guess", "error")
    }
    told = ranks.all_gather_object([(last[2] - first[2]) / rounds, process.held * window])
    return {
        "layout": layout,
        "millions": count / 1e6,
        "ranks": ranks.size,
        "window": window,
        "bytes_sent_by_a_rank": max(t[0] for t in told),
        "bytes_on_loopback_by_a_rank": (last[3] - first[3]) / rounds / ranks.size,
        "bytes_held_by_a_rank": max(t[1] for t in told),
        "seconds_a_round": median(b[0] - a[0] for a, b in pairwise(seen)),
        **{f"seconds_{lap}": value for lap, value in laps.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--parameters", type=float, nargs="+", default=[1, 10], help="in millions")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    start_ranks(args.ranks, 1)
    torch.set_num_threads(1)
    init_process_group(torch.device("cpu"))
    rows = []
    for millions in args.parameters:
        for layout in LAYOUTS:
            found = measure(layout, int(millions * 1e6), args.window, args.rounds)
            if Communicator().rank == 0:
                print(json.dumps(found), flush=True)
            n = found["millions"] * 4e6
            rows.append(
                [
                    f"{millions:g} M", layout, f"{found['bytes_sent_by_a_rank'] / n:.2f} N",
                    f"{found['bytes_on_loopback_by_a_rank'] / n:.2f} N", f"{found['bytes_held_by_a_rank'] / n:.2f} N",
                    *(f"{found[f'seconds_{key}']:.3f}" for key in ("a_round", "exchange", "rollout", "error")),
                ]
            )  # fmt: skip
    if Communicator().rank == 0:
        header = ["N", "layout", "sent", "loopback", "held", "round, s", "exchange", "rollout", "error"]
        print(table(header, rows))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
