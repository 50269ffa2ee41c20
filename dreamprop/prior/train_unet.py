"""Train the latent model's U-Net and text encoder, on the latents of the trained autoencoder.

    python -m dreamprop.prior.train_unet --out outputs/stable-diffusion

The loss is the squared error of the predicted noise (arXiv:2006.11239, eq. 12), weighted by timestep, the caption
dropped one time in ten for classifier-free guidance (arXiv:2207.12598). The draws of a step depend on (seed, step)
alone, so a run that is stopped and started again with the same command goes on as if it never stopped. After each
checkpoint the averaged weights are in `model/`, as a folder of Stable Diffusion's layout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from dreamprop.config.loader import InputError
from dreamprop.prior.atlas import load_atlas
from dreamprop.prior.captions import captions
from dreamprop.prior.dataset import Dataset
from dreamprop.prior.latents import Latents, load_latents
from dreamprop.prior.stable_diffusion import (
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    save,
    token_ids,
)
from dreamprop.prior.training import Training, add_bfloat16, arguments, run
from dreamprop.prior.world import LARGE
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json

DROP = 0.1
"""Share of pictures that are shown without a caption."""
HEAVIEST = 20.0
"""Bound of the loss's weights by timestep."""


class Denoiser(nn.Module):
    """A U-Net and the text encoder that is trained with it."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        """Take both, the U-Net in the memory format that is a seventh faster on CPUs."""
        super().__init__()
        self.unet, self.text_encoder = unet.to(memory_format=torch.channels_last), text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The noise [N, C, h, w] predicted in noisy latents at timesteps [N], told token ids [N, L]."""
        text = self.text_encoder(ids).last_hidden_state
        found: Tensor = self.unet(noisy, timesteps, text).sample
        return found


def noise_loss(
    denoiser: nn.Module,
    tokenizer: CLIPTokenizer,
    scheduler: DDPMScheduler,
    latents: Latents,
    n: int,
    g: torch.Generator,
) -> Tensor:
    """Squared error of the noise predicted in n latents at timesteps spread over all, weighted and averaged.

    The weight is that of v-prediction, 1 / abar (arXiv:2202.00512, appendix D), up to HEAVIEST: the prompt tells most
    where the noise is strong, and there the plain error is fifteen times smaller than where it is weak.
    """
    z, facts = latents.draw(n, g)
    said = captions(facts, g)
    dropped = (torch.rand(n, generator=g) < DROP).tolist()
    ids = token_ids(tokenizer, ["" if d else c for c, d in zip(said, dropped, strict=True)])
    total = scheduler.config.num_train_timesteps
    t = ((torch.rand(n, generator=g) + torch.arange(n)) / n * total).long()  # stratified
    noise = torch.randn(z.shape, generator=g)
    noisy = scheduler.add_noise(z, noise, t)
    error = F.mse_loss(denoiser(noisy, t, ids), noise, reduction="none").mean((1, 2, 3))
    return (error * (1 / scheduler.alphas_cumprod[t]).clamp(max=HEAVIEST)).mean()


def trained_autoencoder(out: Path, widths: list[int]) -> AutoencoderKL:
    """The averaged autoencoder of a run, frozen.

    Raises:
        InputError: it has not been trained.
    """
    training = Training(make_autoencoder(0, widths))
    if not training.load(out / "autoencoder"):
        raise InputError(
            f"{out}/autoencoder must hold a checkpoint, which is missing; "
            f"run python -m dreamprop.prior.train_autoencoder --out {out} first"
        )
    vae: AutoencoderKL = training.average.eval()
    return vae


def train(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    out: Path = args.out
    vae = trained_autoencoder(out, args.autoencoder_widths)
    dataset = Dataset(load_atlas(out, args.seed, args.views, args.pair_views, LARGE), pairs=args.pairs)
    path = out / f"latents-{args.seed}-{args.latents}.safetensors"
    latents = load_latents(path, vae, dataset, args.latents, args.seed, args.bfloat16)
    vae.register_to_config(scaling_factor=latents.scale)
    tokenizer = make_tokenizer()
    denoiser = Denoiser(make_unet(args.seed, args.widths), make_text_encoder(args.seed, tokenizer))
    training = Training(denoiser, keep=args.keep)
    scheduler = DDPMScheduler.from_config(make_scheduler().config)

    def loss(step: int) -> Tensor:
        g = generator(args.seed, step, "prior/unet")
        return noise_loss(denoiser, tokenizer, scheduler, latents, args.batch, g)

    def saved() -> None:
        smooth = training.average
        save(out / "model", vae, smooth.unet, smooth.text_encoder, tokenizer)
        facts = {
            "steps": training.step,
            "seconds": round(training.seconds),
            "seed": args.seed,
            "scaling_factor": latents.scale,
            "torch": torch.__version__,
        }
        write_json(out / "unet" / "figures.json", facts)

    run(
        training,
        loss,
        out / "unet",
        steps=args.steps,
        peak=args.lr,
        save_minutes=args.save_minutes,
        saved=saved,
    )
    print(f"the model is in {out / 'model'}", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = arguments(
        "train the latent model's U-Net and text encoder", "outputs/stable-diffusion",
        steps=12500, batch=32, lr=1.5e-3, views=800, pair_views=60,
    )  # fmt: skip
    p.add_argument("--keep", type=float, default=0.999, help="of the averaged weights, at every step")
    p.add_argument("--latents", type=int, default=40960, help="pictures that are encoded, a multiple of 64")
    p.add_argument("--pairs", type=float, default=0.4, help="share of pictures with two objects")
    p.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128], help="channels of the U-Net")
    p.add_argument(
        "--autoencoder-widths", type=int, nargs="+", default=[16, 32, 32], help="channels of the autoencoder"
    )
    add_bfloat16(p)
    return p


if __name__ == "__main__":
    train(parser().parse_args())
