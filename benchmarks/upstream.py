"""threestudio's own Stable Diffusion configs on the embedded weights: sequential and accelerated, with two noises.

    python benchmarks/upstream.py --threestudio PATH
    python benchmarks/upstream.py --threestudio PATH --configs dreamfusion-sd --prompts "a red torus" --steps 300

Each config keeps its systems, losses, learning rates and schedules; its steps and all its milestones are divided by the
same number, and `SMALL` makes it small enough for a CPU. The four runs of a config and a prompt start from the same
weights. Every run that is done is kept in the folder `--out`; the same command goes on behind it. At the end there is
the table, and `upstream.png` beside the runs: a row for each prompt, four views of the sequential result and the same
four of the accelerated one.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import ROOT, Results, table
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from shortened import overrides as shortened
from torch import Tensor

from dreamprop.config import loader as configs
from dreamprop.distributed.communicator import Communicator
from dreamprop.prior.large_model import large_model
from dreamprop.runs.artifacts import images
from dreamprop.runs.artifacts.judgement import judge_views
from dreamprop.runs.artifacts.quality import psnr_db
from dreamprop.runs.config import ParallelConfig
from dreamprop.runs.loop import RunSettings
from dreamprop.runs.outcome import VIEWS
from dreamprop.runs.threestudio import embedded
from dreamprop.runs.threestudio.run import Run
from dreamprop.threestudio import loading
from dreamprop.threestudio.compat import install
from dreamprop.utils.atomic_io import replacing

PROMPTS = ("a red torus", "a green mug", "a blue house")
WINDOW = 8
WAYS = {
    "sequential": (True, 0),
    "accelerated": (False, 0),
    "other noise": (True, 1),
    "other noise, accelerated": (False, 1),
}
"""The runs of a config and a prompt: whether step by step, and what is added to the seed of the draws."""
SIZE = 64
"""Side in pixels of what is rendered."""
GRID = "system.geometry.pos_encoding_config"
SMALL = [
    f"data.width={SIZE}", f"data.height={SIZE}",
    f"data.eval_width={SIZE}", f"data.eval_height={SIZE}", f"data.n_test_views={VIEWS}", "data.eval_elevation_deg=30",
    "system.renderer.num_samples_per_ray=64",
    "system.guidance.half_precision_weights=false", "trainer.precision=32",
    "trainer.enable_progress_bar=false", "use_timestamp=false",
]  # fmt: skip
"""What makes every config small enough for a CPU."""
HASHED = [f"{GRID}.n_levels=10", f"{GRID}.log2_hashmap_size=15"]
"""The same for those with a hash grid."""


@dataclass(frozen=True)
class Case:
    """A config, and what it needs besides."""

    steps: int
    """To take."""
    overrides: tuple[str, ...] = ()


CASES = {
    "dreamfusion-sd": Case(500, tuple(HASHED)),
    "prolificdreamer": Case(
        500,
        (*HASHED, "data.resolution_milestones=[]", "data.batch_size=1",
         "system.guidance.pretrained_model_name_or_path_lora=lora"),
    ),
    "magic3d-coarse-sd": Case(300, tuple(HASHED)),
    "textmesh-if": Case(
        300,
        (*HASHED, "system.prompt_processor_type=stable-diffusion-prompt-processor",
         "system.guidance_type=stable-diffusion-guidance"),
    ),
    "sjc": Case(300),
}  # fmt: skip
"""The configs that are measured: textmesh with Stable Diffusion for DeepFloyd, whose weights are not here."""


def workplace(out: Path, root: Path) -> Path:
    """A folder that looks like the checkout, so that nothing is written into that one, and go there."""
    place = out / "checkout"
    place.mkdir(parents=True, exist_ok=True)
    for name in ("threestudio", "extern", "load"):
        if not (place / name).exists():
            (place / name).symlink_to(root / name)
    os.chdir(place)
    # threestudio takes one name for one network: under another name its LoRA has a network of its own
    lora, model = place / "lora", large_model()
    if not lora.is_symlink() or lora.readlink() != model:
        lora.unlink(missing_ok=True)
        lora.symlink_to(model)
    return place


def settings_of(
    root: Path, name: str, prompt: str, steps: int, place: Path, more: list[str]
) -> loading.Config:
    """The config, shortened and small."""
    path = root / "configs" / f"{name}.yaml"
    tree: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    arguments = [
        *shortened(tree, steps), f"trainer.val_check_interval={steps}", *SMALL, *CASES[name].overrides,
        f"exp_root_dir={place.parent.parent}", f"name={place.parent.name}", f"tag={place.name}",
        f"system.prompt_processor.prompt={prompt}",
        *(f"system.{part}.pretrained_model_name_or_path=embedded" for part in ("prompt_processor", "guidance")),
        f"parallel.window={WINDOW}", *more,
    ]  # fmt: skip
    read = loading.read(path, arguments)
    embedded.resolve(read.studio)
    return read


def key_of(args: argparse.Namespace, name: str, prompt: str) -> dict[str, Any]:
    """What a measurement is found by; other weights are another model."""
    steps = args.steps or CASES[name].steps
    return {
        "config": name, "prompt": prompt, "steps": steps, "extra": args.overrides, "model": large_model().name,
    }  # fmt: skip


def measure(args: argparse.Namespace, results: Results, name: str, prompt: str, way: str) -> None:
    """Make a run, and keep what came out."""
    steps = args.steps or CASES[name].steps
    key = key_of(args, name, prompt) | {"way": way}
    if results.find(**key):
        return
    place = args.out / f"{name}-{steps}" / f"{prompt}, {way}".replace(" ", "_")
    read = settings_of(args.threestudio, name, prompt, steps, place, args.overrides)
    sequential, other = WAYS[way]
    block = configs.build(ParallelConfig, configs.merge(ParallelConfig, [read.parallel]))
    given = Namespace(config=args.threestudio / "configs" / f"{name}.yaml", threestudio=None, overrides=[])
    run = Run(
        given, read.studio, RunSettings(block, steps, sequential), torch.device("cpu"), Communicator(),
        seed=int(read.studio.seed) + other, compared=True,
    )  # fmt: skip
    outcome = run.outcome()
    if outcome is None:
        raise RuntimeError(f"{place} has no result, though one process alone made it")
    views = torch.stack([view[:, :, : view.shape[1]] for view in outcome.views])  # colours stand on the left
    with replacing(place / "views.safetensors") as beside:
        save_file({"views": views.contiguous()}, beside)
    kept = ("rounds", "drifts", "wall_seconds", "audit", "window")
    judged = judge_views(prompt, views.float() / 255)
    results.add({**key, **{k: outcome.summary[k] for k in kept}, "judge": judged, "place": str(place)})
    del run, outcome
    gc.collect()


def shown(row: dict[str, Any]) -> Tensor:
    """The views of a run that is done, [N, 3, H, W], 8 bits."""
    return load_file(Path(row["place"]) / "views.safetensors")["views"]


def named(*rows: dict[str, Any] | None) -> str:
    """How often the judge names the prompt, in the runs that are done and that it can judge."""
    return " / ".join(f"{row['judge']['r_precision']:.2f}" for row in rows if row and row["judge"])


def means(args: argparse.Namespace, results: Results) -> str:
    """R-precision by config, over its prompts and over the noises with which both runs are done."""
    lines = []
    for name in args.configs:
        pairs = []
        for prompt in args.prompts:
            key = key_of(args, name, prompt)
            first, fast, other, other_fast = (results.find(**key, way=way) for way in WAYS)
            pairs += [
                pair
                for pair in ((first, fast), (other, other_fast))
                if all(row and row["judge"] for row in pair)
            ]
        found = [[row["judge"]["r_precision"] for row in rows] for rows in zip(*pairs, strict=True)]
        if found:
            lines.append([name, str(len(pairs)), *(f"{sum(each) / len(each):.2f}" for each in found)])
    return table(["config", "pairs of runs", "R-precision, sequential", "accelerated"], lines)


def report(args: argparse.Namespace, results: Results) -> str:
    """The table of what is done, and the pictures of it."""
    lines, rows = [], []
    for name in args.configs:
        for prompt in args.prompts:
            key = key_of(args, name, prompt)
            done = {way: results.find(**key, way=way) for way in WAYS}
            first, fast, other, other_fast = done.values()
            if first is None or fast is None:
                continue
            views = shown(first), shown(fast)
            chosen = [views[i][:: max(1, len(views[i]) // 4)][:4].float() / 255 for i in range(2)]
            rows.append(torch.nn.functional.interpolate(torch.cat(chosen), (SIZE, SIZE), mode="area"))
            audit = fast["audit"]
            lines.append(
                [
                    name, prompt, named(first, fast), named(other, other_fast),
                    f"{psnr_db(views[1], views[0]):.1f}",
                    f"{psnr_db(shown(other), views[0]):.1f}" if other else "",
                    f"{fast['steps'] / fast['rounds']:.2f}", f"{fast['drifts'] / fast['steps']:.2f}",
                    f"{first['wall_seconds']:.0f} / {fast['wall_seconds']:.0f}",
                    "" if audit is None else f"{audit['median']:.2f} / {audit['worst']:.2f}",
                ]
            )  # fmt: skip
    if rows:
        images.write_bytes(args.out / "upstream.png", images.png(images.side_by_side(torch.cat(rows))))
    header = [
        "config", "prompt", "R-precision, sequential / accelerated", "with other noise", "dB to sequential",
        "dB of other noise", "steps a round", "drifts a step", "seconds", "audit, median / worst",
    ]  # fmt: skip
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threestudio", type=Path, required=True, help="a checkout of threestudio 0.2.3")
    parser.add_argument("--configs", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument(
        "--steps", type=int, help="of every config; by default 500, and 300 for the last three"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "upstream")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", action="store_true", help="print what was measured, and measure nothing")
    parser.add_argument("overrides", nargs="*", help="dot-list overrides of the configs, after --")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out, args.threestudio = args.out.resolve(), args.threestudio.resolve()
    results = Results(args.out / "upstream.jsonl")
    if not args.report:
        install(args.threestudio, "cpu")
        for name in ("pytorch_lightning", "diffusers"):
            logging.getLogger(name).setLevel(logging.ERROR)
        workplace(args.out, args.threestudio)
        for prompt in args.prompts:
            for name in args.configs:
                for way in WAYS:
                    print(f"{name}, {prompt}, {way}", flush=True)
                    measure(args, results, name, prompt, way)
    print(report(args, results), means(args, results), sep="\n\n")


if __name__ == "__main__":
    main()
