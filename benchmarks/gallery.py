"""A page of results: a dozen prompts, sequential beside accelerated.

    python benchmarks/gallery.py                                       # docs/gallery.md with its pictures
    python benchmarks/gallery.py --scene pixel --out outputs/gallery

Each prompt is a row of pictures of `--size` pixels: four views of the sequential result, two from either height, and
the same four of the accelerated one. Stop it at any time and start it again with the same command: what is done is not
done again.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT, SCENES, Results, experiment, judged, prompts, table, views
from torch import Tensor

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.artifacts import images
from dreamprop.runs.experiment import make_process
from dreamprop.runs.loop import RunSettings, solve_options
from dreamprop.utils.atomic_io import write_text

PAIRS = ("a red cube on top of a blue cylinder", "a yellow cone on top of a green cube")
HEIGHTS = (25.0, 60.0)
"""Elevations that a result is shown from, in degrees."""


def strip(process: Any, state: dp.State, size: int) -> Tensor:
    """A result from two sides at each height, [4, 3, size, size] in [0, 1]."""
    rings = [
        process.render_views(state, num_views=8, width=size, height=size, elevation=height)[[0, 3]]
        for height in HEIGHTS
    ]
    return torch.cat(rings)


def show(args: argparse.Namespace, results: Results, prompt: str) -> dict[str, Any]:
    """Solve a prompt in both ways, write its row of pictures, and return what is said of it."""
    name = prompt.replace(" ", "_")
    key = {"scene": args.scene, "prompt": prompt, "size": args.size, "extra": args.overrides}
    picture = args.out / f"gallery-{name}.png"
    if (found := results.find(**key)) and picture.exists():
        return found
    chosen = experiment(args.scene, prompt, args.overrides)
    process, steps = make_process(chosen), chosen.config.trainer.max_steps
    settings = RunSettings(chosen.config.parallel, steps)
    began = time.perf_counter()
    sequential = dp.solve_sequential(process, steps)
    between = time.perf_counter()
    accelerated = dp.solve(process, steps, **solve_options(process, settings, Communicator()))
    seconds = between - began, time.perf_counter() - between
    states = sequential.state, accelerated.state
    pictures = [strip(process, state, args.size) for state in states]
    images.write_bytes(picture, images.png(images.side_by_side(torch.cat(pictures))))
    off = (pictures[0] - pictures[1]).square().mean()
    return results.add(
        {
            **key,
            "picture": picture.name,
            "steps": steps,
            "rounds": accelerated.stats.num_rounds,
            "seconds": seconds,
            "psnr_db": -10 * math.log10(max(float(off), 1e-12)),
            "named": [judged(prompt, views(process, state)) for state in states],
        }
    )


def page(args: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """The gallery in Markdown."""
    lines = [
        "# Gallery",
        "",
        f"    {args.command}",
        "",
        "Four views of the sequential result, then the same four of the accelerated one: two sides from "
        f"{HEIGHTS[0]:.0f} and {HEIGHTS[1]:.0f} degrees.",
        "",
    ]
    told = []
    for row in rows:
        lines += [f"**{row['prompt']}**", "", f"![{row['prompt']}]({row['picture']})", ""]
        told.append(
            [
                row["prompt"],
                " / ".join(f"{100 * share:.0f}%" for share in row["named"]),
                f"{row['steps']} / {row['rounds']}",
                f"{row['psnr_db']:.1f}",
                " / ".join(f"{seconds:.1f}" for seconds in row["seconds"]),
            ]
        )
    header = ["prompt", "named in so many of 24 views", "steps / rounds", "dB between the two", "seconds"]
    return "\n".join([*lines, table(header, told), ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", default="latent", help=f"{', '.join(SCENES)}, or a config")
    parser.add_argument(
        "--count", type=int, default=13, help="prompts with one object, one of each shape first"
    )
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="prompts with two objects")
    parser.add_argument("--size", type=int, default=256, help="pixels along a side of a picture")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page and its pictures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("overrides", nargs="*", help="dot-list overrides of the config, after --")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    args.command = "python benchmarks/gallery.py"
    if args.scene != "latent":
        args.command += f" --scene {args.scene}"
    for name in ("count", "pairs", "size"):
        if (value := getattr(args, name)) != parser.get_default(name):
            args.command += f" --{name} {value}"
    results = Results(ROOT / "outputs" / "benchmarks" / "gallery.jsonl")
    rows = []
    for prompt in [*prompts(args.count), *PAIRS[: args.pairs]]:
        rows.append(show(args, results, prompt))
        print(f"{prompt}: {rows[-1]['rounds']} rounds", flush=True)
    written = args.out / "gallery.md"
    write_text(written, page(args, rows))
    print(written)


if __name__ == "__main__":
    main()
