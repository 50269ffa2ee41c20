"""What the benchmarks share: a process from a config, prompts, views, and results that survive a stop.

Every benchmark writes a line of JSON for each finished measurement and skips those it finds in the file: stop it at any
time and start it again with the same command.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.prior import classifier
from dreamprop.prior.vocabulary import single_object_prompts
from dreamprop.rng import generator
from dreamprop.runs.experiment import Experiment, load, make_process
from dreamprop.solver.timing import Timed
from dreamprop.solver.window_choice import Windows

ROOT = Path(__file__).resolve().parents[1]
VIEWS = 8
ELEVATIONS = (0.0, 20.0, 45.0)
"""A result is judged and compared in 8 views evenly around it from each of these heights, in degrees."""

SCENES = {
    "latent": "configs/dreamfusion.yaml",
    "latent-hash": "configs/dreamfusion-hash.yaml",
    "pixel": "configs/dreamfusion-pixel.yaml",
    "pixel-hash": "configs/dreamfusion-pixel-hash.yaml",
}
"""Configs by name: a voxel grid and a hash grid on the latent model, and on that of 32-pixel pictures."""


def prompts(count: int) -> list[str]:
    """The first `count` of a fixed shuffle of all single-object prompts that goes round the shapes."""
    everything = single_object_prompts()
    order = torch.randperm(len(everything), generator=generator(0, 0, "benchmark/prompts")).tolist()
    by_shape: dict[str, list[str]] = {}
    for i in order:
        by_shape.setdefault(everything[i][1], []).append(everything[i][0])
    rounds = zip(*by_shape.values(), strict=True)
    return [prompt for group in rounds for prompt in group][:count]


def experiment(scene: str, prompt: str, overrides: Sequence[str] = ()) -> Experiment:
    """The config of a scene, with a prompt, overrides, and windows of 8, so that no result hangs on a clock."""
    path = ROOT / SCENES.get(scene, scene)
    return load(path, [f"system.prompt_processor.prompt={prompt}", "parallel.window=8", *overrides])


def processes(ex: Experiment) -> tuple[Any, Any]:
    """The process of an experiment and its twin with other noise."""
    process = make_process(ex)
    twin = copy.copy(process)
    twin.seed = ex.config.seed + 1
    return process, twin


def moved(process: Any, state: dp.State) -> dp.State:
    """A state whose parameters are off by a hundredth of their nominal steps, root mean square."""
    g, params = generator(0, 0, "benchmark/ceiling"), dict(state.params)
    for group in process.groups(state.step).values():
        for name in group.names:
            params[name] = params[name] + 0.01 * group.step * torch.randn(params[name].shape, generator=g)
    return replace(state, params=params)


def views(process: Any, state: Any) -> Tensor:
    """Pictures of a result, [24, 3, 64, 64]."""
    rings = [
        process.render_views(state, num_views=VIEWS, width=64, height=64, elevation=e) for e in ELEVATIONS
    ]
    return torch.cat(rings)


def judged(prompt: str, pictures: Tensor) -> float:
    """Share of the views in which the judge's first choice among all prompts is this one: R-precision."""
    names = classifier.load().names(pictures, prompt)
    return sum(names) / len(names)


class IdleWindows(Windows):
    """What ``auto`` chooses on a device where any window takes as long as a step: as every round is said to."""

    def learn(self, round: Timed) -> None:
        super().learn(replace(round, seconds=1.0))


class Results:
    """Finished measurements by key, on disk as lines of JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The measurement with this key, if it was made."""
        return next((row for row in self.rows if all(row.get(k) == v for k, v in key.items())), None)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a measurement, on disk at once."""
        self.rows.append(row)
        with open(self.path, "a") as file:
            print(json.dumps(row), file=file, flush=True)
        return row


def start_ranks(ranks: int, threads: int) -> None:
    """Started by hand, start this script again on so many processes, and end with what they end with."""
    if "RANK" in os.environ or ranks == 1:
        return
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    sys.exit(subprocess.run([*launch, *sys.argv], env=environment).returncode)


def cores_each(ranks: int) -> int:
    """The cores that each of so many processes has."""
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
