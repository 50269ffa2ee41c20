"""The window that chooses itself, by the clock: against plain steps, and against every fixed window.

    python benchmarks/auto.py
    python benchmarks/auto.py --ranks 2 --processes pixel pixel-hash
    python benchmarks/auto.py --processes dreamfusion-sd --threestudio PATH

Processes: DreamFusion on the latent and on the pixel model, and a hash grid on that; threestudio's own on the embedded
weights, as `upstream.py` makes it small; a toy loss of an engineer's own, whose steps take half a millisecond; and
drifts that sleep, for a device that is idle (a window takes as long as a step), one that is saturated (a window takes
as long as its steps one by one), and one between. All ways are run in turns; seconds are medians over the turns,
without audits, and ratios are of these medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import upstream
from adam_chain import AdamChain
from common import ROOT, cores_each, experiment, start_ranks, table
from torch import nn

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import destroy_process_group
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.rng import generator
from dreamprop.runs.experiment import make_process
from dreamprop.threestudio import loading
from dreamprop.threestudio.compat import install

UPSTREAM = "dreamfusion-sd"
"""The config of a checkout that is measured."""
Made = tuple[Any, int, float]
"""A process, its steps and its tolerance."""
WINDOWS = (1, 2, 4, 8, 16, 32, 64)


class Sleeping(AdamChain):
    """A noisy quadratic whose drifts sleep: T(w) = alone + each (w - 1) seconds a window.

    Args:
        alone: seconds of a single drift.
        each: seconds that each further drift of a window takes.
    """

    def __init__(self, alone: float, each: float) -> None:
        super().__init__({"x": torch.randn(64, generator=generator(0, 0, "x"))}, 0.01)
        self.alone, self.each = alone, each
        self.curvature = torch.linspace(0.01, 1, 64)

    def drift(self, state: dp.State) -> dp.Drift:
        return self.drift_window([state])[0]

    def drift_window(self, states: Sequence[dp.State]) -> list[dp.Drift]:
        time.sleep(self.alone + self.each * (len(states) - 1))
        noise = [torch.randn(64, generator=generator(0, state.step, "noise")) for state in states]
        pairs = zip(states, noise, strict=True)
        return [dp.Drift({"x": state.params["x"] * self.curvature + 0.3 * n}) for state, n in pairs]


def toy() -> Any:
    """A small network fitted to noisy points, as an engineer's own loop is wrapped."""
    module = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    for name, p in module.named_parameters():
        nn.init.normal_(p, std=0.1, generator=generator(0, 0, name))

    def loss(module: nn.Module, step: int, g: torch.Generator) -> torch.Tensor:
        x = torch.rand(64, 2, generator=g) * 2 - 1
        target = torch.sin(3 * x[:, :1]) * x[:, 1:] + 0.1 * torch.randn(64, 1, generator=g)
        return ((module(x) - target) ** 2).mean()

    return dp.wrap(module, loss, torch.optim.Adam(module.parameters(), lr=1e-3))


def dreamfusion(scene: str) -> Callable[[], Made]:
    """The main job on a scene."""

    def make() -> Made:
        chosen = experiment(scene, "a red torus")
        return make_process(chosen), chosen.config.trainer.max_steps, chosen.config.parallel.tolerance

    return make


def threestudio(root: Path) -> Made:
    """The main job of a checkout, its schedules divided to 100 steps."""
    out, steps = ROOT / "outputs" / "benchmarks" / "upstream", 100
    install(root, "cpu")
    upstream.workplace(out, root)
    read = upstream.settings_of(root, UPSTREAM, "a red torus", steps, out / UPSTREAM / "auto", [])
    return loading.process(read.studio), steps, 1.0


PROCESSES: dict[str, Callable[[], Made]] = {
    "latent": dreamfusion("latent"),
    "pixel": dreamfusion("pixel"),
    "pixel-hash": dreamfusion("pixel-hash"),
    "toy": lambda: (toy(), 2000, 1.0),
    "idle": lambda: (Sleeping(0.01, 0.0), 1000, 1.0),
    "half": lambda: (Sleeping(0.01, 0.005), 1000, 1.0),
    "saturated": lambda: (Sleeping(0.005, 0.005), 1000, 1.0),
}
"""By name; besides, that of a checkout."""


def seconds(stats: dp.Stats) -> float:
    """Of the rounds, without audits."""
    return sum(stats.laps.values()) - stats.laps.get("audit", 0.0)


def measure(
    name: str, made: Made, steps: int | None, windows: Sequence[int], repeat: int, ranks: Communicator
) -> dict[str, Any] | None:
    """Medians of all ways; nothing on other processes than the first, which made the sequential runs."""
    process, usual, tolerance = made
    steps, threads, first = steps or usual, torch.get_num_threads(), process.init()
    taken: dict[Any, list[float]] = {way: [] for way in ("sequential", *windows, "auto")}
    chosen: list[dp.Stats] = []
    for turn in range(repeat + 1):  # the first turn does not count
        if ranks.rank == 0:
            torch.set_num_threads(threads * ranks.size)
            alone = dp.solve_sequential(process, steps, state=first).stats
            torch.set_num_threads(threads)
            taken["sequential"] += [seconds(alone)] * (turn > 0)
        ranks.wait_for_main(f"{name} {turn}")
        for window in (*windows, "auto"):
            ranks.any(False)
            found = dp.solve(process, steps, window, tolerance, state=first, audit=0).stats
            taken[window] += [seconds(found)] * (turn > 0)
            chosen += [found] * (window == "auto" and turn > 0)
    if ranks.rank:
        return None
    medians = {way: median(found) for way, found in taken.items()}
    best = min(("sequential", *windows), key=lambda way: medians[way])
    last = [found.decisions[-1].window for found in chosen]
    return {"process": name, "steps": steps, "seconds": medians, "best": best, "windows": last}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", nargs="+", default=list(PROCESSES), choices=[*PROCESSES, UPSTREAM])
    parser.add_argument(
        "--threestudio", type=lambda text: Path(text).resolve(), help=f"a checkout, for {UPSTREAM}"
    )
    parser.add_argument("--windows", nargs="+", type=int, default=list(WINDOWS))
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of every process; each has its own by default")
    args = parser.parse_args()
    if UPSTREAM in args.processes and args.threestudio is None:
        parser.error(f"{UPSTREAM} is threestudio's; give --threestudio PATH")
    start_ranks(args.ranks, cores_each(args.ranks))
    if args.ranks > 1:
        init_process_group(torch.device("cpu"))
    ranks, rows = Communicator(), []
    for name in args.processes:
        made = threestudio(args.threestudio) if name == UPSTREAM else PROCESSES[name]()
        found = measure(name, made, args.steps, args.windows, args.repeat, ranks)
        if found is None:
            continue
        took, least = found["seconds"], found["seconds"][found["best"]]
        alone = took["sequential"]
        fixed = [f"{took[window] / alone:.3f}" for window in args.windows]
        last = " ".join(map(str, found["windows"]))
        rows.append(
            [name, str(found["steps"]), f"{alone:.2f}", *fixed, f"**{took['auto'] / alone:.3f}**",
             f"{took['auto'] / least:.3f} ({found['best']})", last]
        )  # fmt: skip
        print(f"{name}: {took['auto'] / alone:.3f} of the sequential run's time", flush=True)
    if ranks.rank == 0:
        head = ["process", "steps", "sequential, s", *(f"W = {w}" for w in args.windows)]
        print(table([*head, "auto", "auto / best", "last window"], rows))
    if args.ranks > 1:
        destroy_process_group()


if __name__ == "__main__":
    main()
