"""Every method and every loss: the sequential run, the accelerated one, and the two marks between which it lies.

    python benchmarks/methods.py
    python benchmarks/methods.py --cases vsd gaussians --prompts "a red torus" --out FILE

For each case and prompt four runs from one start: sequential; accelerated, with windows of 8; sequential with other
noise, whose PSNR to the first is the yardstick; and sequential from a start a hundredth of a nominal step away, whose
PSNR is the ceiling. R-precision is the share of 24 views that the judge names as the prompt. Seconds are those of the
solver, without audits. The prompts are none of those that the configs were tuned on. Stop it at any time and start it
again with the same command; run it twice at the same time with `--shard 0/2` and `--shard 1/2` to use two cores, and
once more with `--report`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from common import ROOT, Results, experiment, judged, moved, processes, table, views
from PIL import Image

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.artifacts import images
from dreamprop.runs.artifacts.quality import psnr_db
from dreamprop.runs.loop import RunSettings, solve_options

PROMPTS = ("a red torus", "a green mug", "a blue house", "a pink cone", "a white cylinder")
CASES = {
    "sds": "configs/dreamfusion.yaml",
    "sjc": "configs/dreamfusion-sjc.yaml",
    "ism": "configs/dreamfusion-ism.yaml",
    "sdi": "configs/dreamfusion-sdi.yaml",
    "vsd": "configs/prolificdreamer.yaml",
    "gaussians": "configs/dreamgaussian.yaml",
}
"""By name: the config that is run."""
AUDIT = 0.1
"""Share of the accepted steps that is evaluated again."""


def measure(args: argparse.Namespace, results: Results, case: str, prompt: str) -> None:
    """The four runs of a prompt; what each shows is kept beside the results."""
    key = {"case": case, "prompt": prompt, "extra": args.overrides}
    if results.find(**key):
        return
    ex = experiment(CASES[case], prompt, [f"parallel.audit={AUDIT}", *args.overrides])
    process, twin = processes(ex)
    steps, first = ex.config.trainer.max_steps, process.init()
    options = solve_options(process, RunSettings(ex.config.parallel, steps), Communicator())

    began = time.perf_counter()
    sequential = dp.solve_sequential(process, steps, state=first)
    taken = time.perf_counter() - began
    shown = views(process, sequential.state)
    found = dp.solve(process, steps, state=first, **options)
    pictures, stats = views(process, found.state), found.stats
    noise = views(twin, dp.solve_sequential(twin, steps, state=first).state)
    near = views(process, dp.solve_sequential(process, steps, state=moved(process, first)).state)

    picture = place(args, case, prompt)
    picture.parent.mkdir(parents=True, exist_ok=True)
    rows = torch.cat([shown[8:16:2], pictures[8:16:2]])
    images.write_bytes(picture, images.png(images.side_by_side(rows)))
    results.add(
        {
            **key,
            "steps": steps,
            "r_precision": [judged(prompt, p) for p in (shown, pictures, noise, near)],
            "psnr_db": psnr_db(pictures, shown),
            "yardstick_db": psnr_db(noise, shown),
            "ceiling_db": psnr_db(near, shown),
            "rounds": stats.num_rounds,
            "drifts": stats.num_drifts,
            "seconds": [taken, sum(stats.laps.values()) - stats.laps.get("audit", 0.0)],
            "audits": stats.audits,
        }
    )
    print(case, prompt, results.rows[-1], flush=True)


def report(args: argparse.Namespace, results: Results) -> str:
    """A row a case: means over the prompts, and the audits of all of them."""
    lines = []
    for case in args.cases:
        rows: list[dict[str, Any]] = [
            r for r in results.rows if r["case"] == case and r["extra"] == args.overrides
        ]
        rows = [r for r in rows if r["prompt"] in args.prompts]
        if not rows:
            continue
        named = [fmean(r["r_precision"][way] for r in rows) for way in range(4)]
        marks = [fmean(r[mark] for r in rows) for mark in ("yardstick_db", "psnr_db", "ceiling_db")]
        audits = [a for r in rows for a in r["audits"]]
        lines.append(
            [
                case,
                str(len(rows)),
                str(rows[0]["steps"]),
                f"{named[0]:.3f} / {named[1]:.3f}",
                f"{named[2]:.3f} / {named[3]:.3f}",
                f"{marks[0]:.1f} < **{marks[1]:.1f}** < {marks[2]:.1f}",
                f"{fmean(r['steps'] / r['rounds'] for r in rows):.2f}",
                f"{fmean(r['drifts'] / r['steps'] for r in rows):.2f}",
                f"{fmean(r['seconds'][0] for r in rows):.1f} / {fmean(r['seconds'][1] for r in rows):.1f}",
                f"{median(audits):.2f} / {max(audits):.2f}" if audits else "",
            ]
        )
    head = [
        "case", "prompts", "steps", "R-precision, sequential / accelerated", "other noise / near start",
        "dB: yardstick < accelerated < ceiling", "steps a round", "drifts a step",
        "seconds, sequential / accelerated", "audit, median / worst",
    ]  # fmt: skip
    return table(head, lines)


def sheet(args: argparse.Namespace) -> Path | None:
    """Write what the cases made of the first prompt, a row each: four views of the sequential result, then of the
    accelerated one."""
    shown = [place(args, case, args.prompts[0]) for case in args.cases]
    rows = [torch.from_numpy(np.array(Image.open(path))) for path in shown if path.exists()]
    if not rows:
        return None
    views = torch.cat(
        [row.unflatten(1, (-1, row.shape[0])).movedim(1, 0) for row in rows]
    )  # [8 cases, H, W, 3]
    path = args.out.with_suffix("") / "methods.png"
    return images.write_bytes(path, images.png(images.side_by_side(views.movedim(-1, 1) / 255)))


def place(args: argparse.Namespace, case: str, prompt: str) -> Path:
    """Where the views of a case and a prompt are."""
    path: Path = args.out.with_suffix("") / f"{case}-{prompt.replace(' ', '_')}.png"
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--shard", default="0/1", help="every so manieth prompt, from which one")
    parser.add_argument("--report", action="store_true", help="only print the table")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "methods.jsonl")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("overrides", nargs="*", help="dot-list overrides of the config, after --")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = Results(args.out)
    own, shards = (int(x) for x in args.shard.split("/"))
    for prompt in [] if args.report else args.prompts[own::shards]:
        for case in args.cases:
            measure(args, results, case, prompt)
    print(report(args, results))
    if path := sheet(args):
        print(path)


if __name__ == "__main__":
    main()
