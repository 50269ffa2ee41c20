"""Train the latent model's autoencoder on the larger world.

    python -m dreamprop.prior.train_autoencoder --out outputs/stable-diffusion

The loss is the mean squared error of the picture and a little Kullback-Leibler divergence of the posterior from a
standard normal (arXiv:2112.10752, section 3.1). The draws of a step depend on (seed, step) alone, so a run that is
stopped and started again with the same command goes on as if it never stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from dreamprop.prior.atlas import load_atlas
from dreamprop.prior.dataset import Dataset
from dreamprop.prior.stable_diffusion import make_autoencoder
from dreamprop.prior.training import Training, add_bfloat16, arguments, run
from dreamprop.prior.world import LARGE, build_atlas
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json

FRESH = 9_000_021
"""The seed of the renders that the autoencoder is tested on."""


def reconstruction_loss(
    vae: AutoencoderKL, pictures: Tensor, noise: Tensor, divergence: float, fast: bool = False
) -> Tensor:
    """Mean squared error on [-1, 1] plus `divergence` times the mean divergence of a latent's element, in nats.

    Args:
        pictures: [N, 3, H, W] in [0, 1].
        noise: [N, 4, h, w] standard normal, to sample the posterior.
        fast: convolutions in bfloat16.
    """
    x = pictures * 2 - 1
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        posterior = vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        out = vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return F.mse_loss(out, x) + divergence * kl


@torch.no_grad()
def psnr(vae: AutoencoderKL, dataset: Dataset, count: int = 512) -> float:
    """Decibels of reconstructions (of the posterior's mean, mean squared error over all) in [0, 1]."""
    pictures, _ = dataset.draw(count, generator(FRESH, 0, "prior/psnr"))
    error = 0.0
    for part in pictures.split(64):
        out = vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample / 2 + 0.5
        error += float((out.clamp(0, 1) - part).square().sum())
    return -10 * math.log10(error / pictures.numel())


def train(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(load_atlas(out, args.seed, args.views, args.pair_views, LARGE))
    training = Training(make_autoencoder(args.seed, args.widths))
    side = LARGE.size // 2 ** (len(args.widths) - 1)

    def loss(step: int) -> Tensor:
        g = generator(args.seed, step, "prior/autoencoder")
        pictures, _ = dataset.draw(args.batch, g)
        noise = torch.randn(args.batch, 4, side, side, generator=g)
        return reconstruction_loss(training.module, pictures, noise, args.divergence, args.bfloat16)

    folder = out / "autoencoder"
    run(training, loss, folder, steps=args.steps, peak=args.lr, save_minutes=args.save_minutes)
    fresh = Dataset(build_atlas(FRESH, args.test_views, args.test_views // 10, LARGE))
    figures = {"psnr_db": round(psnr(training.average, fresh), 2), "steps": training.step}
    figures |= {"seconds": round(training.seconds)}
    write_json(folder / "figures.json", figures)
    print(json.dumps(figures), flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = arguments(
        "train the latent model's autoencoder", "outputs/stable-diffusion",
        steps=7500, batch=16, lr=2e-3, views=800, pair_views=60,
    )  # fmt: skip
    p.add_argument("--divergence", type=float, default=1e-4, help="weight of the divergence")
    p.add_argument("--test-views", type=int, default=20, help="fresh views a shape to test on")
    p.add_argument("--widths", type=int, nargs="+", default=[16, 32, 32], help="channels")
    add_bfloat16(p)
    return p


if __name__ == "__main__":
    train(parser().parse_args())
