"""Steps a round against fidelity: windows by tolerances by rules by predictors.

    python benchmarks/frontier.py --scene pixel
    python benchmarks/frontier.py --scene pixel-hash

For each setting: steps a round, drifts a step, and the PSNR of the result's views against the sequential run's, which
lies between two marks. The yardstick is the PSNR between two sequential runs from the same first state with different
noise: what lies below it has given up more than chance would. The ceiling is that between two sequential runs with the
same noise whose first states are a hundredth of a nominal step apart: above it nothing can be expected of a loop that
accepts errors of a step, however small. Settings are those of the scene's config.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import ROOT, SCENES, Results, experiment, judged, moved, processes, table, views

import dreamprop as dp
from dreamprop.runs.artifacts.quality import psnr_db


def measure(args: argparse.Namespace, results: Results, prompt: str) -> None:
    ex = experiment(args.scene, prompt, args.overrides)
    process, twin = processes(ex)
    steps = ex.config.trainer.max_steps
    first = process.init()
    identity = {"scene": args.scene, "prompt": prompt, "steps": steps, "overrides": args.overrides}
    reference = views(process, dp.solve_sequential(process, steps, state=first).state)
    if not results.find(**identity, kind="yardstick"):
        other = views(twin, dp.solve_sequential(twin, steps, state=first).state)
        row = {"psnr_db": psnr_db(other, reference), "r_precision": judged(prompt, reference)}
        print(prompt, results.add({**identity, "kind": "yardstick", **row}), flush=True)
    if not results.find(**identity, kind="ceiling"):
        near = views(process, dp.solve_sequential(process, steps, state=moved(process, first)).state)
        print(
            prompt,
            results.add({**identity, "kind": "ceiling", "psnr_db": psnr_db(near, reference)}),
            flush=True,
        )
    for window, predictor, rule in itertools.product(args.windows, args.predictors, args.rules):
        name, value = rule.split(":")
        key = {
            **identity,
            "kind": "run",
            "window": window,
            "predictor": predictor,
            "rule": name,
            "value": float(value),
        }
        if results.find(**key):
            continue
        options: dict[str, Any] = {"error_rule": name, "predictor": predictor}
        options |= {"tolerance": float(value)} if name == "step" else {"threshold": float(value)}
        began = time.perf_counter()
        solution = dp.solve(process, steps, window, state=first, evaluator=dp.evaluate.batched, **options)
        pictures = views(process, solution.state)
        row = {
            "steps_a_round": solution.stats.speedup_rounds,
            "drifts_a_step": solution.stats.num_drifts / steps,
            "psnr_db": psnr_db(pictures, reference),
            "r_precision": judged(prompt, pictures),
            "seconds": time.perf_counter() - began,
        }
        results.add({**key, **row})
        print(
            f"{prompt}: W={window} {predictor} {rule}: {row['steps_a_round']:.2f} at {row['psnr_db']:.1f} dB",
            flush=True,
        )


def report(args: argparse.Namespace, results: Results) -> str:
    """Means over the prompts, a row a setting, a column a window: rounds and fidelity, then R-precision."""
    rows = [
        r
        for r in results.rows
        if r["scene"] == args.scene and r["overrides"] == args.overrides and r["prompt"] in args.prompts
    ]
    marks = [r for r in rows if r["kind"] == "yardstick"]
    if not marks:
        return "nothing measured yet"
    yardstick = fmean(r["psnr_db"] for r in marks)
    ceiling = fmean(r["psnr_db"] for r in rows if r["kind"] == "ceiling")
    lines, named = [], []
    for predictor, rule in itertools.product(args.predictors, args.rules):
        name, value = rule.split(":")
        cells, judged_cells = [], []
        for window in args.windows:
            key = (window, predictor, name, float(value))
            runs = [
                r
                for r in rows
                if r["kind"] == "run" and (r["window"], r["predictor"], r["rule"], r["value"]) == key
            ]
            speed, psnr, drifts, right = (
                fmean(r[k] for r in runs) if runs else math.nan
                for k in ("steps_a_round", "psnr_db", "drifts_a_step", "r_precision")
            )
            cells.append(f"{speed:.1f} at {psnr - yardstick:+.0f} ({drifts:.1f})")
            judged_cells.append(f"{right:.2f}")
        lines.append([predictor, f"{name} {value}", *cells])
        named.append([predictor, f"{name} {value}", *judged_cells])
    columns = ["predictor", "rule", *(f"W = {w}" for w in args.windows)]
    return (
        f"{args.scene}, {rows[0]['steps']} steps, {len(marks)} prompts, yardstick {yardstick:.1f} dB, "
        f"ceiling {ceiling - yardstick:+.1f} above it. Cells: steps a round at decibels above the yardstick (drifts "
        f"evaluated a step).\n\n{table(columns, lines)}\n\n"
        f"R-precision; sequential {fmean(r['r_precision'] for r in marks):.2f}.\n\n{table(columns, named)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", default="latent", help=f"{', '.join(SCENES)}, or a config")
    parser.add_argument(
        "--prompts", nargs="+", default=["a red torus", "a blue house", "a green mug", "a yellow table"]
    )
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--predictors", nargs="+", default=["momentum", "hold"])
    parser.add_argument("--rules", nargs="+", default=["step:1", "step:1.5", "step:2", "paper:30"])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "frontier.jsonl")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("overrides", nargs="*", help="dot-list overrides of the config, after --")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = Results(args.out)
    for prompt in args.prompts:
        measure(args, results, prompt)
    print(report(args, results))


if __name__ == "__main__":
    main()
