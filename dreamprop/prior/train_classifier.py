"""Train the classifier of the procedural world's pictures."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from dreamprop.prior.classifier import Judge
from dreamprop.prior.vocabulary import COLORS
from dreamprop.prior.world import PALETTE, SIZE, Atlas, background, build_atlas, compose
from dreamprop.rng import generator

SEED = 7_000_001
"""The judge's world, for training; its test renders and the generator's come from other seeds."""


def augmented(atlas: Atlas, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw n augmented pictures with their shape and colour indices: flat or contrasty shading, other backgrounds,
    shifted, scaled, blurred, with noise and another exposure, as pictures of an optimised scene may be."""
    index = torch.randint(len(atlas.layers), (n,), generator=g)
    layers = atlas.layers[index].float() / 255
    color = torch.randint(len(COLORS), (n,), generator=g)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=g))[:, None, None, None]

    # flatten the shading by moving the lit coverage towards the plain one
    lit, alpha = layers[:, :5], layers[:, 5:]
    fixed = layers[:, 2:5].amax(1, keepdim=True) > 0.02
    flat = torch.where(fixed, lit[:, :1], alpha * 0.85)
    flatness = uniform(-0.2, 0.5).clamp(min=0)
    layers = torch.cat([layers[:, :1] + flatness * (flat - layers[:, :1]), layers[:, 1:]], 1)
    plain = torch.rand(n, 3, 1, 1, generator=g).expand(-1, -1, SIZE, SIZE)
    backdrop = torch.where(uniform(0, 1) < 0.25, plain * 0.6 + 0.2, background(n, g).expand(-1, -1, -1, SIZE))
    jitter = 0.05 * torch.randn(n, 3, generator=g)
    pictures = compose(layers, PALETTE[color] + jitter, torch.zeros(n, 3), backdrop)

    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = uniform(0.8, 1.3).view(-1)
    theta[:, :, 2] = 0.12 * torch.randn(n, 2, generator=g)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = pictures + uniform(-0.5, 1.0).clamp(min=0) * (soft - pictures)
    exposure = uniform(0.85, 1.15)
    pictures = pictures * exposure + uniform(0, 0.06) * torch.randn(pictures.shape, generator=g)
    return pictures.clamp(0, 1), atlas.shape[index], color


def train(out: Path, steps: int, views: int, batch: int, lr: float) -> None:
    """Train the judge and write it whole."""
    atlas = build_atlas(SEED, views)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    running = 0.0
    for step in track(range(steps), description="judge"):
        pictures, shape, color = augmented(atlas, batch, generator(SEED, step, "prior/judge"))
        by_shape, by_color = judge(pictures)
        loss = F.cross_entropy(by_shape, shape, label_smoothing=0.02) + F.cross_entropy(
            by_color, color, label_smoothing=0.02
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {running:.3f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(tensors, out / "model.safetensors.new")
    os.replace(out / "model.safetensors.new", out / "model.safetensors")
    (out / "config.json").write_text(json.dumps({"width": 32}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="train the judge", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/judge"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--views", type=int, default=700, help="traced views a shape")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    args = parser.parse_args()
    train(args.out, args.steps, args.views, args.batch, args.lr)


if __name__ == "__main__":
    main()
