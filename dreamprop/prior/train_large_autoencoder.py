"""Train what is trained of the autoencoder for 512-pixel pictures, at 64 pixels.

    python -m dreamprop.prior.train_large_autoencoder --out outputs/stable-diffusion

Its encoder learns what the shipped small one says of a picture (distillation, arXiv:1503.02531), its decoder to give
the picture back. Everything else of it is written down, see `large_autoencoder`. The draws of a step depend on
(seed, step) alone, so a run that is stopped and started again with the same command goes on as if it never stopped.
After each checkpoint the averaged weights are in `large-vae/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL
from torch import Tensor

from dreamprop.prior import STABLE_DIFFUSION
from dreamprop.prior.atlas import load_atlas
from dreamprop.prior.dataset import Dataset
from dreamprop.prior.large_autoencoder import Inner, enlarged, fold, make_large_autoencoder, shrunk
from dreamprop.prior.train_autoencoder import FRESH
from dreamprop.prior.training import Training, add_bfloat16, arguments, run
from dreamprop.prior.world import LARGE, build_atlas
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json

LOGVAR = 3e-3
"""Weight of the variance's logarithm, which is far from zero and matters little."""


def distillation_loss(
    inner: Inner, small: AutoencoderKL, pictures: Tensor, noise: Tensor, fast: bool = False
) -> Tensor:
    """Squared errors of the latents' mean and variance and of the picture that is made of them.

    Args:
        inner: what is trained.
        small: the autoencoder it learns from, frozen.
        pictures: [N, 3, 64, 64] in [0, 1].
        noise: [N, 4, 16, 16] standard normal, to sample the latents that are decoded.
        fast: convolutions in bfloat16.
    """
    x = pictures * 2 - 1
    with torch.no_grad():
        told = small.encode(x).latent_dist
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        mean, logvar = inner.encode(x)
        made = inner.decode(told.mean + told.std * noise)
    spread = F.mse_loss(logvar.float(), told.logvar)
    return F.mse_loss(mean.float(), told.mean) + LOGVAR * spread + F.mse_loss(made.float(), x)


def figures(vae: AsymmetricAutoencoderKL, small: AutoencoderKL, pictures: Tensor) -> dict[str, float]:
    """How near the large autoencoder comes to the small one, in decibels and as cosines of gradients.

    Args:
        vae: the large one.
        small: the small one.
        pictures: [N, 3, 512, 512] in [0, 1]; the small one sees their means of 8 x 8 pixels.
    """
    errors, cosines = torch.zeros(3), []
    for part in pictures.split(8):
        large = (part * 2 - 1).requires_grad_()
        little = shrunk(large.detach()).requires_grad_()
        found, told = vae.encode(large).latent_dist.mean, small.encode(little).latent_dist.mean
        mine = shrunk(torch.autograd.grad(found.square().sum(), large)[0])
        theirs = torch.autograd.grad(told.square().sum(), little)[0]
        cosines.append(F.cosine_similarity(mine.flatten(1), theirs.flatten(1)))
        with torch.no_grad():
            own = small.decode(told).sample.clamp(-1, 1)
            other = small.decode(found).sample.clamp(-1, 1)
            back = shrunk(vae.decode(enlarged(found)).sample.clamp(-1, 1))
            errors += torch.stack(
                [(a - b).square().sum() / 4 for a, b in ((own, other), (little, other), (little, back))]
            )
    decibels = -10 * torch.log10(errors * 64 / pictures.numel())
    return {
        "psnr_db_of_latents_by_the_small_decoder_to_the_small_reconstruction": round(float(decibels[0]), 2),
        "psnr_db_of_latents_by_the_small_decoder_to_the_picture": round(float(decibels[1]), 2),
        "psnr_db_of_the_whole_to_the_picture": round(float(decibels[2]), 2),
        "cosine_of_gradients": round(float(torch.cat(cosines).mean()), 4),
    }


def fresh_pictures(dataset: Dataset, count: int) -> Tensor:
    """Pictures of fresh views, enlarged to 512 pixels the way threestudio enlarges its renders."""
    small, _ = dataset.draw(count, generator(FRESH, 0, "prior/large-autoencoder"))
    return F.interpolate(small, (512, 512), mode="bilinear", align_corners=False)


def write(vae: AsymmetricAutoencoderKL, folder: Path) -> None:
    """Write it in half precision, beside its place and renamed onto it."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    vae.half().save_pretrained(beside, safe_serialization=True)
    told = json.loads((beside / "config.json").read_text())
    for name in ("block_out_channels", "force_upcast"):
        told.pop(name)  # diffusers sets them by itself, and warns of them where it reads them
    (beside / "config.json").write_text(json.dumps(told, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def train(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(load_atlas(out, args.seed, args.views, args.pair_views, LARGE))
    small = AutoencoderKL.from_pretrained(args.small / "vae").eval().requires_grad_(False)
    vae = make_large_autoencoder(args.seed)
    inner = Inner(vae)
    inner.begin_from(small)
    training = Training(inner)

    def loss(step: int) -> Tensor:
        g = generator(args.seed, step, "prior/large-autoencoder")
        pictures, _ = dataset.draw(args.batch, g)
        noise = torch.randn(args.batch, 4, 16, 16, generator=g)
        return distillation_loss(inner, small, pictures, noise, args.bfloat16)

    def trained() -> AsymmetricAutoencoderKL:
        made, average = make_large_autoencoder(args.seed), training.average
        assert isinstance(average, Inner)
        fold(made, average)
        made.register_to_config(scaling_factor=small.config.scaling_factor)
        return made

    folder = out / "large-autoencoder"
    run(
        training, loss, folder, steps=args.steps, peak=args.lr, save_minutes=args.save_minutes,
        saved=lambda: write(trained(), out / "large-vae"),
    )  # fmt: skip
    fresh = Dataset(build_atlas(FRESH, args.test_views, args.test_views // 10, LARGE))
    told = figures(trained(), small, fresh_pictures(fresh, args.test_pictures))
    told |= {"steps": training.step, "seconds": round(training.seconds)}
    write_json(folder / "figures.json", told)
    print(json.dumps(told, indent=1), flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = arguments(
        "train the autoencoder for 512-pixel pictures", "outputs/stable-diffusion",
        steps=1200, batch=16, lr=2e-3, views=800, pair_views=60,
    )  # fmt: skip
    p.add_argument("--small", type=Path, default=STABLE_DIFFUSION, help="model whose latents are learned")
    p.add_argument("--test-views", type=int, default=20, help="fresh views a shape to test on")
    p.add_argument("--test-pictures", type=int, default=128, help="pictures of them to test on")
    add_bfloat16(p)
    return p


if __name__ == "__main__":
    train(parser().parse_args())
