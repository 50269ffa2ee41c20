"""Train the embedded text-to-image model on the procedural world.

    python -m dreamprop.prior.train_model --out outputs/prior --steps 9000

The loss is the v-prediction objective (arXiv:2202.00512, eq. 12), v = alpha_t eps - sigma_t x, with the caption dropped
one time in ten for classifier-free guidance (arXiv:2207.12598). The draws of a step depend on (seed, step) alone, so a
run that is stopped and started again with the same command goes on as if it never stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreamprop.prior.model import TextToImage
from dreamprop.prior.vocabulary import VIEWS
from dreamprop.prior.world import SMALL, Atlas, World, build_atlas
from dreamprop.rng import generator


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 200 steps, hold, and fall linearly to a fiftieth over the last 30% of the run."""
    fall = min(1.0, (steps - step) / (0.3 * steps))
    return peak * min(1.0, (step + 1) / 200) * max(fall, 0.02)


def load_atlas(folder: Path, seed: int, views: int, pair_views: int, world: World = SMALL) -> Atlas:
    """Render the pictures to train on, or read them where an earlier start of this run left them."""
    path = folder / f"atlas-{seed}-{views}-{pair_views}.safetensors"
    if not path.exists():
        print(f"rendering {views} views a shape and {pair_views} a pair of shapes ...", flush=True)
        atlas = build_atlas(seed, views, pair_views, world)
        words = torch.tensor([VIEWS.index(v) for v in atlas.views])
        fields = {
            "layers": atlas.layers,
            "shape": atlas.shape,
            "other": atlas.other,
            "relation": atlas.relation,
            "view": words,
        }
        write_tensors({k: v.contiguous() for k, v in fields.items()}, path)
    read = load_file(path)
    views_read = [VIEWS[int(i)] for i in read["view"]]
    return Atlas(read["layers"], read["shape"], read["other"], read["relation"], views_read)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file whole or not at all."""
    beside = path.with_suffix(".new")
    save_file(tensors, beside)
    os.replace(beside, path)


def diffusion_loss(model: TextToImage, pictures: Tensor, captions: list[str], g: torch.Generator) -> Tensor:
    """Mean squared error of v at uniformly drawn timesteps; pictures [B, 3, H, W] in [0, 1]."""
    x = pictures * 2 - 1
    n = len(x)
    dropped = torch.rand(n, generator=g) < 0.1
    captions = ["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]
    t = (
        (torch.rand(n, generator=g) + torch.arange(n)) / n * model.scheduler.config.num_train_timesteps
    )  # stratified
    t = t.long()
    noise = torch.randn(x.shape, generator=g)
    noisy = model.scheduler.add_noise(x, noise, t)
    target = model.scheduler.get_velocity(x, noise, t)
    context = model.text_encoder(model.tokens(captions)).last_hidden_state
    return F.mse_loss(model.unet(noisy, t, context).sample, target)


def train(args: argparse.Namespace) -> None:
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    atlas = load_atlas(out, args.seed, args.views, args.pair_views)
    model = TextToImage.create(args.seed)
    if args.channels_last:
        model.unet.to(memory_format=torch.channels_last)
    both = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder})
    average = copy.deepcopy(both).requires_grad_(False)
    names = [name for name, _ in both.named_parameters()]
    params = [p for _, p in both.named_parameters()]
    smoothed: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(params)
    optimizer = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)
    first, seconds = 0, 0.0
    state_file = out / "train.safetensors"
    if state_file.exists():
        state = load_file(state_file)
        first, seconds = int(state.pop("step")), float(state.pop("seconds"))
        both.load_state_dict({k.removeprefix("now/"): v for k, v in state.items() if k.startswith("now/")})
        average.load_state_dict(
            {k.removeprefix("mean/"): v for k, v in state.items() if k.startswith("mean/")}
        )
        for name, p in zip(names, params, strict=True):
            optimizer.state[p] = {"step": torch.tensor(float(first))} | {
                key: state[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")
            }
        print(f"going on from step {first}", flush=True)

    def checkpoint(step: int, spent: float) -> None:
        state = {f"now/{k}": v for k, v in both.state_dict().items()}
        state |= {f"mean/{k}": v for k, v in average.state_dict().items()}
        for name, p in zip(names, params, strict=True):
            state |= {f"{key}/{name}": optimizer.state[p][key] for key in ("exp_avg", "exp_avg_sq")}
        state |= {"step": torch.tensor(step), "seconds": torch.tensor(spent, dtype=torch.float64)}
        write_tensors({k: v.detach().contiguous() for k, v in state.items()}, state_file)
        smooth = TextToImage(average["unet"], average["text_encoder"], model.tokenizer, model.scheduler)
        smooth.save(out / "model")
        facts = {
            "steps": step,
            "seconds": round(spent),
            "batch": args.batch,
            "seed": args.seed,
            "threads": torch.get_num_threads(),
            "pictures": len(atlas.layers),
            "torch": torch.__version__,
        }
        (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")

    started, running = time.monotonic() - seconds, float("nan")
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, open(out / "loss.csv", "a") as log:
        task = progress.add_task("training", total=args.steps, completed=first, loss=running)
        for step in range(first, args.steps):
            g = generator(args.seed, step, "prior/train")
            pictures, _, captions = atlas.draw(args.batch, g)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.lr)
            loss = diffusion_loss(model, pictures, captions, g)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
            optimizer.step()
            keep = min(0.999, (step + 1) / (step + 10))
            torch._foreach_lerp_(smoothed, weights, 1 - keep)
            if not loss.isfinite():
                raise FloatingPointError(
                    f"the loss of step {step} is {loss.item()}; lower --lr and start again"
                )
            running = loss.item() if running != running else 0.98 * running + 0.02 * loss.item()
            progress.update(task, advance=1, loss=running)
            if (step + 1) % 50 == 0:
                print(f"{step + 1},{running:.5f},{time.monotonic() - started:.0f}", file=log, flush=True)
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
                checkpoint(step + 1, time.monotonic() - started)
    print(f"the model is in {out / 'model'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="train the embedded text-to-image model",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/prior"), help="folder of the run; the same folder goes on"
    )
    parser.add_argument("--steps", type=int, default=9000, help="optimiser steps in all")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=1500, help="traced views a shape")
    parser.add_argument(
        "--pair-views", type=int, default=60, help="traced views a pair of shapes and relation"
    )
    parser.add_argument("--save-every", type=int, default=500, help="steps between saves")
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory layout of the U-Net",
    )
    train(parser.parse_args())


if __name__ == "__main__":
    main()
