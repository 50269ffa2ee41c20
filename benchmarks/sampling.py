"""Pictures of the embedded model by each sampler, held against the sequential one: rounds, calls, decibels, the judge.

    python benchmarks/sampling.py --threads 1
    python benchmarks/sampling.py --threads 1 --schedules ddpm-1000 --count 40
    python benchmarks/sampling.py --threads 1 --predictors hold momentum restart anderson
    python benchmarks/sampling.py --ranks 2 --count 4 --out outputs/benchmarks/sampling-2.jsonl

A schedule is a scheduler of diffusers and a number of steps, or 48 steps of PIADM's own grid. For every prompt its
sequential picture is drawn twice, from two noises: the decibels between the two are the yardstick. Each way of sampling
then begins from the first noise. The windows, tolerances and predictors of WAYS were chosen on the prompts of TUNED,
which are left out; with `--predictors` these alone are drawn, by ParaDiGMS with each guess. With `--ranks 2` two
processes share the windows, a thread each. Every prompt of a schedule that is done is kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import diffusers
import torch
from common import ROOT, Results, prompts, start_ranks, table
from diffusers import StableDiffusionPipeline
from torch import Tensor

import dreamprop as dp
from dreamprop.prior import MODELS, classifier
from dreamprop.runs.artifacts.quality import psnr_db
from dreamprop.runs.sampling.methods import piadm_step_by_step
from dreamprop.sampling import Denoising, paradigms, piadm, randomized_midpoint, srds
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.paradigms import Displacements
from dreamprop.sampling.pipeline import Prompted

TUNED = ("a red mug", "a blue house", "a green cone", "a yellow torus")
SCHEDULES = {
    "ddim-50": ("DDIMScheduler", 50, 8),
    "ddim-200": ("DDIMScheduler", 200, 16),
    "dpm-solver++-25": ("DPMSolverMultistepScheduler", 25, 8),
    "ddpm-100": ("DDPMScheduler", 100, 16),
    "ddpm-1000": ("DDPMScheduler", 1000, 48),
    "ode-48": (None, 48, 0),
    "sde-48": (None, 48, 0),
}
"""Schedulers, their steps, and the window of `--predictors`; no scheduler: PIADM's grid."""
Way = Callable[..., Any]


def on_grid(sampler: Way, **own: Any) -> Way:
    """A sampler that has a grid of its own, whatever a schedule's steps are."""
    return lambda *a, num_inference_steps, **k: sampler(*a, **own, **k)


WAYS: dict[str, dict[str, Way]] = {
    "ddim-50": {
        "paradigms, window 8": partial(paradigms, window=8),
        "published iteration, window 8": lambda *a, **k: published(*a, window=8, **k),
        "srds": srds,
    },
    "ddim-200": {
        "paradigms, window 16": partial(paradigms, window=16),
        "paradigms, window 32": partial(paradigms, window=32),
        "srds": srds,
    },
    "dpm-solver++-25": {"paradigms, window 8": partial(paradigms, window=8)},
    "ddpm-100": {"paradigms, window 16": partial(paradigms, window=16)},
    "ddpm-1000": {
        "paradigms, window 46, tolerance 1": partial(paradigms, window=46, tolerance=1.0),
    },
    "ode-48": {
        "piadm, 8 blocks of 6, 3 sweeps": on_grid(piadm),
        "piadm, 2 sweeps": on_grid(piadm, sweeps=2),
        "piadm, 3 sweeps, corrected": on_grid(piadm, corrector=Corrector(num_steps=3, duration=0.3)),
        "midpoints, 24 steps one after another": on_grid(randomized_midpoint),
        "midpoints, 12 steps of 4, 1 sweep": on_grid(
            randomized_midpoint, num_inference_steps=12, midpoints=4, sweeps=1
        ),
    },
    "sde-48": {"piadm, 8 blocks of 6, 4 sweeps": on_grid(piadm, form="sde")},
}
"""Ways to sample, by schedule."""
STEP_BY_STEP = {
    "ode-48": on_grid(piadm_step_by_step),
    "sde-48": on_grid(piadm_step_by_step, form="sde"),
}
"""What the ways of a grid are held against: its steps one after another."""


def guesses(schedule: str, predictors: list[str]) -> dict[str, Way]:
    """ParaDiGMS at the window of a schedule, with each of these guesses; `hold` is the published iteration."""
    name, _, window = SCHEDULES[schedule]
    ways: dict[str, Way] = {
        p: partial(paradigms, window=window, predictor=p) for p in predictors if p != "hold"
    }
    if "hold" in predictors and name != "DPMSolverMultistepScheduler":
        ways["hold, the published iteration"] = partial(published, window=window)
    return ways


def published(pipe: Any, prompt: str, *, num_inference_steps: int, window: int, **arguments: Any) -> Any:
    """ParaDiGMS as published: displacements are summed, and guesses are copies."""
    asked = Prompted(pipe, prompt, **arguments)
    process = Displacements.of(asked, num_inference_steps)
    found = dp.solve(process, process.num_steps, window, 0.1, predictor="hold", audit=0.0)
    return asked.output(process.samples(found.state), found.stats)


def sequential(pipe: Any, prompt: str, *, num_inference_steps: int, **arguments: Any) -> Any:
    """The pipeline's own sampler."""
    asked = Prompted(pipe, prompt, **arguments)
    process = Denoising.of(asked, num_inference_steps)
    found = dp.solve_sequential(process, process.num_steps)
    return asked.output(process.samples(found.state), found.stats)


def measure(pipe: Any, schedule: str, prompt: str, seed: int, ways: dict[str, Way]) -> dict[str, Any]:
    """A prompt by the sequential sampler and by every way."""
    name, steps, _ = SCHEDULES[schedule]
    if name is not None:
        made = getattr(diffusers, name)
        pipe.scheduler = made.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    step_by_step = STEP_BY_STEP.get(schedule, sequential)

    def draw(way: Way, noise: int) -> tuple[Tensor, dict[str, Any]]:
        began = time.perf_counter()
        made = way(
            pipe,
            prompt,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(noise),
            output_type="pt",
        )
        seconds = time.perf_counter() - began
        named = classifier.load().names(made.images, prompt)
        told = {"rounds": made.stats.num_rounds, "drifts": made.stats.num_drifts, "seconds": seconds}
        return made.images, told | {"named": sum(named) / len(named)}

    plain, found = draw(step_by_step, seed)
    other, _ = draw(step_by_step, seed + 1_000_000)
    row: dict[str, Any] = {"sequential": found | {"other_noise_psnr_db": psnr_db(other, plain)}}
    for label, way in ways.items():
        images, found = draw(way, seed)
        row[label] = found | {"psnr_db": psnr_db(images, plain)}
    return row


def summary(rows: list[dict[str, Any]]) -> str:
    """A table of each schedule."""
    lines = []
    for schedule, (_, steps, _) in SCHEDULES.items():
        of = [row for row in rows if row["schedule"] == schedule]
        if not of:
            continue
        lines.append(f"\n{schedule}, {len(of)} prompts")
        cells = []
        for label in (label for label, run in of[0].items() if isinstance(run, dict)):
            runs = [row[label] for row in of]
            mean = {key: fmean(run[key] for run in runs) for key in ("rounds", "drifts", "seconds", "named")}
            db = [run.get("psnr_db", run.get("other_noise_psnr_db")) for run in runs]
            cells.append(
                [
                    label, f"{mean['rounds']:.1f} ({max(run['rounds'] for run in runs)})",
                    f"{steps / mean['rounds']:.1f}", f"{mean['drifts']:.0f}", f"{mean['seconds']:.2f}",
                    f"{fmean(db):.1f} ({min(db):.1f})" + (" to another noise" if label == "sequential" else ""),
                    f"{mean['named']:.3f}",
                ]
            )  # fmt: skip
        header = [
            "",
            "rounds (most)",
            "steps a round",
            "calls",
            "seconds",
            "dB to sequential (least)",
            "named",
        ]
        lines.append(table(header, cells))
    return "\n".join(lines)


def main() -> None:
    """Measure what is not yet measured, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), help="all of them by default")
    parser.add_argument("--predictors", nargs="+", choices=["hold", "momentum", "restart", "anderson"])
    parser.add_argument(
        "--count", type=int, default=130, help="prompts, before those that were tuned on are left out"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/benchmarks/sampling.jsonl")
    given = parser.parse_args()
    guessed = [name for name in SCHEDULES if name not in STEP_BY_STEP]
    schedules = given.schedules or (guessed if given.predictors else list(SCHEDULES))
    if given.predictors and (wrong := [name for name in schedules if name not in guessed]):
        parser.error(f"--predictors are of {', '.join(guessed)}, got {wrong[0]}; leave it out")
    start_ranks(given.ranks, 1)
    torch.set_num_threads(1 if given.ranks > 1 else given.threads)
    lead = os.environ.get("RANK", "0") == "0"
    results = Results(given.out)
    pipe = StableDiffusionPipeline.from_pretrained(MODELS["embedded"], dtype=torch.float32)
    drawn = TUNED[: given.count] if given.predictors else prompts(given.count)
    asked = [(i, prompt) for i, prompt in enumerate(drawn) if given.predictors or prompt not in TUNED]
    for schedule in schedules:
        for seed, prompt in asked:
            key = {
                "schedule": schedule,
                "prompt": prompt,
                "ranks": given.ranks,
                "predictors": given.predictors,
            }
            if results.find(**key):
                continue
            ways = guesses(schedule, given.predictors) if given.predictors else WAYS[schedule]
            row = key | measure(pipe, schedule, prompt, seed, ways)
            if lead:
                results.add(row)
                print(json.dumps(row), flush=True)
    if lead:
        names = {prompt for _, prompt in asked}
        rows = [row for row in results.rows if row["prompt"] in names and row["ranks"] == given.ranks]
        rows = [row for row in rows if row.get("predictors") == given.predictors]
        print(summary([row for row in rows if row["schedule"] in schedules]))


if __name__ == "__main__":
    main()
