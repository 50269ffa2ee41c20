"""Measure an embedded model by what the judge names in its samples.

    python -m dreamprop.prior.benchmark
    python -m dreamprop.prior.benchmark --scale 3 7.5 --pairs 40

Every single-object prompt and some of the pairs, `--samples` times each, DDIM with classifier-free guidance. The judge
itself is measured by `prior.judge_accuracy`.
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

from dreamprop.prior import JUDGE, MODELS, classifier
from dreamprop.prior.counterfactuals import PARTS
from dreamprop.prior.vocabulary import COLORS, SHAPES, Prompt, all_prompts
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json

SEED = 9_000_011
"""The seed of the samples' noise and of which pairs are asked for."""


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


def asked(pairs: int) -> list[Prompt]:
    """Every prompt of one object, and some of the pairs: half of them atop, half beside."""
    everything = all_prompts()
    chosen = [p for p in everything if p.relation is None]
    g = generator(SEED, 0, "prior/pairs")
    for relation, count in (("atop", pairs - pairs // 2), ("beside", pairs // 2)):
        those = [p for p in everything if p.relation == relation]
        chosen += [those[i] for i in torch.randperm(len(those), generator=g)[:count].tolist()]
    return chosen


def score(pictures: Tensor, prompts: list[Prompt], jury: classifier.Judge) -> dict[str, object]:
    """What the judge says of samples [N, 3, H, W] of prompts: named as asked, in all and by kind; and the parts."""
    labels = jury.label(pictures)

    def share(of: list[int]) -> float:
        return round(sum(labels[i] == prompts[i] for i in of) / max(len(of), 1), 4)

    def those(shape: str | None = None, color: str | None = None, relation: str | None = None) -> list[int]:
        return [
            i
            for i, p in enumerate(prompts)
            if p.relation == relation
            and shape in (None, p.objects[0][0])
            and color in (None, p.objects[0][1])
        ]

    kinds = {"single": those(), **{r: those(relation=r) for r in ("atop", "beside")}}
    parts: dict[str, dict[str, int]] = {}
    for shape, names in PARTS.items():
        index = those(shape)
        if index:
            said = jury.verdict(pictures[index]).find(prompts[index[0]])
            parts |= {
                f"{shape}/{name}": {word: said[name].count(word) for word in ("there", "missing", "hidden")}
                for name in names
            }
    return {
        **{kind: share(index) for kind, index in kinds.items() if index},
        "by_shape": {s: share(those(s)) for s in SHAPES},
        "by_color": {c: share(those(color=c)) for c in COLORS},
        "parts": parts,
        "wrong": [f"{prompts[i]} as {labels[i]}" for i in range(len(labels)) if labels[i] != prompts[i]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="measure an embedded model by its samples",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="embedded", help=f"a folder, or one of {', '.join(MODELS)}")
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--samples", type=int, default=1, help="samples a prompt")
    parser.add_argument("--pairs", type=int, default=0, help="prompts of two objects beside the 130 of one")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--scale", type=float, nargs="+", default=[3.0, 7.5], help="guidance scales")
    parser.add_argument(
        "--sheet", type=Path, default=None, help="write the samples as pictures into this folder"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()

    folder = MODELS.get(args.model, Path(args.model))
    draw = sample_latent if (folder / "vae").is_dir() else sample
    jury = classifier.load(args.judge)
    prompts = asked(args.pairs) * args.samples
    figures: dict[str, object] = {}
    for scale in args.scale:
        pictures = draw(folder, [p.sentence for p in prompts], args.steps, scale, SEED)
        figures[f"scale {scale:g}"] = found = score(pictures, prompts, jury)
        print(f"scale {scale:g}:", json.dumps(found), flush=True)
        if args.sheet:
            args.sheet.mkdir(parents=True, exist_ok=True)
            sheet(pictures, len(COLORS)).save(args.sheet / f"scale-{scale:g}.png")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
