"""Latents of many pictures, computed once: the U-Net is trained on them alone.

Legend: N pictures, [N, C, h, w] latents; a row of facts as in `captions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from dreamprop.prior.dataset import Dataset
from dreamprop.prior.training import write_tensors
from dreamprop.rng import generator

PART = 64
"""Pictures that are drawn and encoded together."""


@dataclass(frozen=True)
class Latents:
    """Posteriors of pictures, unscaled."""

    mean: Tensor
    """[N, C, h, w] float16"""
    std: Tensor
    """[N, C, h, w] float16"""
    facts: Tensor
    """[N, 6] int16"""
    scale: float
    """One over the standard deviation of all sampled latents: the autoencoder's `scaling_factor`."""

    def draw(self, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n scaled latents [n, C, h, w], float32, from their posteriors, and the facts [n, 6]."""
        index = torch.randint(len(self.mean), (n,), generator=g)
        noise = torch.randn(n, *self.mean.shape[1:], generator=g)
        z = self.mean[index].float() + self.std[index].float() * noise
        return z * self.scale, self.facts[index].long()


@torch.no_grad()
def encode(vae: AutoencoderKL, dataset: Dataset, count: int, seed: int, fast: bool = False) -> Latents:
    """Draw `count` pictures and encode them; part i of them depends on (seed, i) alone.

    Args:
        vae: the trained autoencoder.
        dataset: what is drawn from.
        count: pictures, a multiple of PART.
        seed: of the draws.
        fast: convolutions in bfloat16.
    """
    means, stds, rows = [], [], []
    for i in range(count // PART):
        pictures, facts = dataset.draw(PART, generator(seed, i, "prior/latents"))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            posterior = vae.encode(pictures * 2 - 1).latent_dist
        means.append(posterior.mean.half())
        stds.append((0.5 * posterior.logvar.float()).exp().half())
        rows.append(facts.short())
        if (i + 1) % 200 == 0:
            print(f"{(i + 1) * PART} of {count} pictures encoded", flush=True)
    mean, std = torch.cat(means), torch.cat(stds)
    # the variance of samples is that of the means and the mean of the variances
    spread = mean.float().var() + std.float().square().mean()
    return Latents(mean, std, torch.cat(rows), 1 / float(spread.sqrt()))


def load_latents(
    path: Path, vae: AutoencoderKL, dataset: Dataset, count: int, seed: int, fast: bool = False
) -> Latents:
    """Read the latents of a file, or encode them and write it."""
    if not path.exists():
        made = encode(vae, dataset, count, seed, fast)
        scale = torch.tensor(made.scale, dtype=torch.float64)
        write_tensors({"mean": made.mean, "std": made.std, "facts": made.facts, "scale": scale}, path)
    read = load_file(path)
    return Latents(read["mean"], read["std"], read["facts"], float(read["scale"]))
