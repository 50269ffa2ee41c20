"""Train the text-to-image model of 32-pixel pictures on the procedural world.

    python -m dreamprop.prior.train_model --out outputs/prior --steps 9000

The loss is the v-prediction objective (arXiv:2202.00512, eq. 12), v = alpha_t eps - sigma_t x, with the caption dropped
one time in ten for classifier-free guidance (arXiv:2207.12598). The draws of a step depend on (seed, step) alone, so a
run that is stopped and started again with the same command goes on as if it never stopped. After each checkpoint the
averaged weights are in `model/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamprop.prior.atlas import load_atlas
from dreamprop.prior.model import TextToImage
from dreamprop.prior.training import Training, arguments, run
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json


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
    """Train as the command line says."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    atlas = load_atlas(out, args.seed, args.views, args.pair_views)
    model = TextToImage.create(args.seed)
    if args.channels_last:
        model.unet.to(memory_format=torch.channels_last)
    both = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder})
    training = Training(both)

    def loss(step: int) -> Tensor:
        g = generator(args.seed, step, "prior/train")
        pictures, _, captions = atlas.draw(args.batch, g)
        return diffusion_loss(model, pictures, captions, g)

    def saved() -> None:
        smooth = dict(training.average.named_children())
        averaged = TextToImage(smooth["unet"], smooth["text_encoder"], model.tokenizer, model.scheduler)
        averaged.save(out / "model")
        facts = {
            "steps": training.step,
            "seconds": round(training.seconds),
            "batch": args.batch,
            "seed": args.seed,
            "threads": torch.get_num_threads(),
            "pictures": len(atlas.layers),
            "torch": torch.__version__,
        }
        write_json(out / "training.json", facts)

    run(
        training,
        loss,
        out / "checkpoints",
        steps=args.steps,
        peak=args.lr,
        save_minutes=args.save_minutes,
        saved=saved,
    )
    print(f"the model is in {out / 'model'}", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = arguments(
        "train the text-to-image model of 32-pixel pictures", "outputs/prior",
        steps=9000, batch=32, lr=2e-3, views=1500, pair_views=60,
    )  # fmt: skip
    p.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory layout of the U-Net",
    )
    return p


if __name__ == "__main__":
    train(parser().parse_args())
