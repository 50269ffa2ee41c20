"""What a drift costs on its own and in a window, with one thread and with all.

    python benchmarks/drift.py

Milliseconds a state, the median of the repetitions, in the middle of a run ("a red torus", by default at step 40).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from common import SCENES, experiment, table

import dreamprop as dp
from dreamprop.runs.experiment import make_process


def milliseconds(call: Callable[[], object], repeat: int) -> float:
    """Median time of a call, after one that does not count."""
    call()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return 1e3 * median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", default="latent", help=f"{', '.join(SCENES)}, or a config")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--step", type=int, default=40, help="of the first state of the window")
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    process = make_process(experiment(args.scene, "a red torus"))
    states = [dp.solve_sequential(process, args.step).state]
    while len(states) < args.window:
        states.append(process.predict(states[-1]))
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        alone = milliseconds(lambda: process.drift(states[0]), args.repeat)
        together = milliseconds(lambda: process.drift_window(states), args.repeat) / args.window
        rows.append([str(threads), f"{alone:.1f}", f"{together:.1f}", f"{alone / together:.2f}"])
    print(table(["threads", "alone, ms", f"in a window of {args.window}, ms a state", "ratio"], rows))


if __name__ == "__main__":
    main()
