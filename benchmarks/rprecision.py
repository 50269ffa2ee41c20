"""How often the judge names the prompt in views of the result: sequential, accelerated, and at other settings.

    python benchmarks/rprecision.py                                        # 40 prompts, sequential and accelerated
    python benchmarks/rprecision.py --kind atop                            # 40 prompts of one object on another
    python benchmarks/rprecision.py --kind all                             # all 130 single objects, 40 atop another
    python benchmarks/rprecision.py --idle                                 # and at the windows of an idle device
    python benchmarks/rprecision.py --sweep                                # learning rates by numbers of steps
    python benchmarks/rprecision.py --alternative                          # fewer steps of an 8 times larger batch

The judge's first choice among all prompts, pairs included, counts (R-precision, arXiv:2209.14988, section 4), over 24
views of each result, eight around it from each of three heights; and the parts that it finds in them. Run it twice at
the same time with `--shard 0/2` and `--shard 1/2` to use two cores; a last call with `--report` prints the table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import ROOT, SCENES, IdleWindows, Results, experiment, judged, prompts, table, views
from omegaconf import OmegaConf
from shortened import overrides as shortened

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.prior import classifier
from dreamprop.prior.vocabulary import all_prompts, read, single_object_prompts
from dreamprop.rng import generator
from dreamprop.runs.experiment import make_process
from dreamprop.runs.loop import RunSettings, solve_options


@dataclass(frozen=True)
class Setting:
    """A row of the table."""

    label: str
    accelerated: bool
    overrides: tuple[str, ...] = ()
    idle: bool = False
    """At windows that `auto` finds on an idle device, instead of those of 8."""


KINDS = ("single", "atop", "beside", "all")


def asked(kind: str, count: int, skip: int = 0) -> dict[str, list[str]]:
    """Prompts by kind, behind the first `skip`; those of two objects are the first of a fixed shuffle."""
    if kind == "all":
        return asked("single", len(single_object_prompts())) | asked("atop", 40)
    if kind == "single":
        return {kind: prompts(skip + count)[skip:]}
    those = [p.sentence for p in all_prompts() if p.relation == kind]
    order = torch.randperm(len(those), generator=generator(0, 0, "benchmark/pairs")).tolist()
    return {kind: [those[i] for i in order[skip : skip + count]]}


def parts_of(prompt: str, pictures: torch.Tensor) -> dict[str, bool]:
    """Which parts of the prompt's shape the judge finds; none of two objects."""
    asked = read(prompt)
    said = classifier.load().verdict(pictures).find(asked)
    return {f"{asked.objects[0][0]}/{part}": classifier.found(answers) for part, answers in said.items()}


FIGURES = {"r_precision": 3, "rounds": 1, "seconds": 1}
"""What is averaged over the prompts, and its decimals."""


def settings(args: argparse.Namespace) -> list[Setting]:
    """The rows that were asked for; in another number of steps every milestone keeps its share of them."""
    usual = experiment(args.scene, "a red torus", args.overrides)
    tree: Any = OmegaConf.to_container(usual.tree)
    if args.sweep:
        return [
            Setting(
                f"lr {lr:g}, {steps} steps",
                False,
                (*shortened(tree, steps), f"system.optimizer.args.lr={lr}"),
            )
            for steps in args.steps
            for lr in args.lr
        ]
    if args.alternative:
        batch = 8 * usual.config.data.batch_size
        rounds = round(usual.config.trainer.max_steps / args.speedup)
        return [
            Setting(
                f"batch {batch}, {rounds} steps, lr {lr:g}",
                False,
                (*shortened(tree, rounds), f"data.batch_size={batch}", f"system.optimizer.args.lr={lr}"),
            )
            for lr in args.lr
        ]
    idle = [Setting("accelerated, idle device", True, idle=True)] if args.idle else []
    return [Setting("sequential", False), Setting("accelerated", True), *idle]


def measure(args: argparse.Namespace, results: Results, setting: Setting, prompt: str) -> None:
    key = {"scene": args.scene, "label": setting.label, "prompt": prompt, "extra": args.overrides}
    if results.find(**key):
        return
    ex = experiment(args.scene, prompt, [*setting.overrides, *args.overrides])
    process, steps = make_process(ex), ex.config.trainer.max_steps
    began = time.perf_counter()
    if setting.accelerated:
        windows = IdleWindows() if setting.idle else None
        options = solve_options(process, RunSettings(ex.config.parallel, steps), Communicator(), windows)
        solution = dp.solve(process, steps, **options)
    else:
        solution = dp.solve_sequential(process, steps)
    seconds = time.perf_counter() - began
    pictures = views(process, solution.state)
    score, parts = judged(prompt, pictures), parts_of(prompt, pictures)
    rounds = solution.stats.num_rounds
    row = {"r_precision": score, "parts": parts, "steps": steps, "rounds": rounds, "seconds": seconds}
    results.add({**key, **row})
    print(
        f"{setting.label}: {prompt}: {score:.2f} ({rounds} rounds, {seconds:.1f} s) {parts or ''}",
        flush=True,
    )


def report(args: argparse.Namespace, results: Results) -> str:
    """A table of each kind of prompts and one of the parts."""
    keys = {"scene": args.scene, "extra": args.overrides}
    made = [r for r in results.rows if all(r.get(k) == v for k, v in keys.items())]
    tables, labels = [], [setting.label for setting in settings(args)]
    for kind, those in asked(args.kind, args.count, args.skip).items():
        rows = {n: [r for r in made if r["label"] == n and r["prompt"] in set(those)] for n in labels}
        lines = [
            [
                label,
                str(len(found)),
                *(f"{sum(r[k] for r in found) / len(found):.{digits}f}" for k, digits in FIGURES.items()),
            ]
            for label, found in rows.items()
            if found
        ]
        tables.append(f"{args.scene}, {kind}\n\n{table(['setting', 'prompts', *FIGURES], lines)}")
        names = sorted({name for found in rows.values() for r in found for name in r.get("parts", {})})
        lines = [
            [name, *(_of([r["parts"][name] for r in rows[n] if name in r["parts"]]) for n in labels)]
            for name in names
        ]
        if lines:
            tables.insert(-1, table(["part found", *labels], lines))
    return "\n\n".join(tables)


def _of(found: list[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", default="latent", help=f"{', '.join(SCENES)}, or a config")
    parser.add_argument("--kind", choices=KINDS, default="single", help="of prompts")
    parser.add_argument("--count", type=int, default=40, help="prompts; those of the kind `all` are counted")
    parser.add_argument(
        "--skip", type=int, default=0, help="so many prompts first, to choose on others than these"
    )
    parser.add_argument("--sweep", action="store_true", help="learning rates by numbers of steps")
    parser.add_argument("--alternative", action="store_true", help="fewer steps with an 8 times larger batch")
    parser.add_argument(
        "--idle",
        action="store_true",
        help="also at windows that auto finds where any of them takes as long as a step",
    )
    parser.add_argument("--lr", type=float, nargs="+", default=[0.03, 0.06, 0.1, 0.2])
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 120, 240])
    parser.add_argument(
        "--speedup", type=float, default=7.0, help="steps a round that the alternative must match"
    )
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th measurement from the i-th")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "rprecision.jsonl")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--report", action="store_true", help="print the table of what was measured, and measure nothing"
    )
    parser.add_argument("overrides", nargs="*", help="dot-list overrides of the config, after --")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = Results(args.out)
    mine, of = (int(x) for x in args.shard.split("/"))
    everything = [prompt for those in asked(args.kind, args.count, args.skip).values() for prompt in those]
    rows = settings(args)
    work = [(setting, prompt) for prompt in everything for setting in rows]
    for setting, prompt in [] if args.report else work[mine::of]:
        measure(args, results, setting, prompt)
    print(report(args, results))


if __name__ == "__main__":
    main()
