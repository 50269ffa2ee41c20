"""Measure an embedded model and the judge, and write the table of the model card.

    python -m dreamprop.prior.benchmark
    python -m dreamprop.prior.benchmark --model dreamprop/prior/weights/stable-diffusion

The judge is scored on fresh renders (a seed that nothing was trained on); the diffusion model by what the judge
names in its samples: every single-object prompt, `--samples` times, DDIM with classifier-free guidance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from dreamprop.prior import FOLDER, JUDGE, classifier
from dreamprop.prior.vocabulary import COLORS, SHAPES, single_object_prompts
from dreamprop.prior.world import LARGE, PALETTE, SMALL, World, build_atlas, compose
from dreamprop.rng import generator

SEED = 9_000_011
"""The seed of the renders that judge and generator are tested on."""


@torch.no_grad()
def sample(folder: Path, prompts: list[str], steps: int, scale: float, seed: int) -> Tensor:
    """Sample pictures [N, 3, H, W] in [0, 1] by DDIM (arXiv:2010.02502) with guidance eps_u + scale (eps_c - eps_u)."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    ids = tokenizer([*prompts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    context = encoder(ids).last_hidden_state
    context = torch.cat([context[-1:].expand(len(prompts), -1, -1), context[:-1]])
    size = unet.config.sample_size
    x = torch.randn(len(prompts), 3, size, size, generator=generator(seed, 0, "prior/sample"))
    for t in scheduler.timesteps:
        eps_uncond, eps_text = unet(torch.cat([x, x]), t, context).sample.chunk(2)
        x = scheduler.step(eps_uncond + scale * (eps_text - eps_uncond), t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def sample_latent(folder: Path, prompts: list[str], steps: int, scale: float, seed: int) -> Tensor:
    """The same from a folder of Stable Diffusion's layout, by its own pipeline."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    side, count = pipe.unet.config.sample_size, len(prompts)
    noise = torch.randn(count, 4, side, side, generator=generator(seed, 0, "prior/sample"))
    found = [
        pipe(
            prompts[i : i + 26],
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=noise[i : i + 26],
            height=side * pipe.vae_scale_factor,
            width=side * pipe.vae_scale_factor,
            output_type="pt",
        ).images
        for i in range(0, count, 26)
    ]
    return torch.cat(found)


def sheet(pictures: Tensor, columns: int, zoom: int = 2) -> Image.Image:
    """Lay pictures [N, 3, H, W] out in rows."""
    rows = [torch.cat(list(row), -1) for row in pictures.split(columns) if len(row) == columns]
    array = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    image = Image.fromarray(array)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def judge_accuracy(judge_folder: Path, views: int, world: World = SMALL) -> dict[str, float]:
    """Score the judge on fresh, plain renders: shape, colour, both."""
    jury = classifier.load(judge_folder)
    atlas = build_atlas(SEED, views, world=world)
    g = generator(SEED, 0, "prior/evaluate")
    shape_right = color_right = both_right = 0
    for layers, shape in zip(atlas.layers.split(256), atlas.shape.split(256), strict=True):
        color = torch.randint(len(COLORS), (len(layers),), generator=g)
        pictures = compose(
            layers.float() / 255, PALETTE[color], PALETTE[color], world.background(len(layers), g, world.size)
        )
        by_shape, by_color = jury(pictures)
        right_s, right_c = by_shape.argmax(1) == shape, by_color.argmax(1) == color
        shape_right += int(right_s.sum())
        color_right += int(right_c.sum())
        both_right += int((right_s & right_c).sum())
    n = len(atlas.layers)
    return {"renders": n, "shape": shape_right / n, "color": color_right / n, "both": both_right / n}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="measure the embedded model and the judge",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--samples", type=int, default=2, help="samples a prompt")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--scale", type=float, default=2.0, help="guidance scale of the samples")
    parser.add_argument(
        "--views", type=int, default=150, help="fresh renders a shape for the judge's own score"
    )
    parser.add_argument("--sheet", type=Path, default=None, help="write the samples as a picture here")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()

    latent = (args.model / "vae").is_dir()
    world = LARGE if latent else SMALL
    figures: dict[str, object] = {"judge": judge_accuracy(args.judge, args.views, world)}
    print("judge on fresh renders:", json.dumps(figures["judge"]), flush=True)
    jury = classifier.load(args.judge)
    asked = [p for _ in range(args.samples) for p in single_object_prompts()]
    draw = sample_latent if latent else sample
    pictures = draw(args.model, [p for p, _, _ in asked], args.steps, args.scale, SEED)
    right = [label == (s, c) for label, (_, s, c) in zip(jury.label(pictures), asked, strict=True)]
    by_shape = {
        s: sum(r for r, a in zip(right, asked, strict=True) if a[1] == s) / (args.samples * len(COLORS))
        for s in SHAPES
    }
    by_color = {
        c: sum(r for r, a in zip(right, asked, strict=True) if a[2] == c) / (args.samples * len(SHAPES))
        for c in COLORS
    }
    figures["samples"] = {
        "samples": len(asked),
        "both": sum(right) / len(right),
        "by_shape": by_shape,
        "by_color": by_color,
    }
    print("samples under the judge:", json.dumps(figures["samples"]), flush=True)
    if args.sheet:
        sheet(pictures, len(COLORS)).save(args.sheet)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
