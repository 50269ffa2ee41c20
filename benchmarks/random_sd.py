"""Latent diffusion models of random weights in Stable Diffusion's own sizes: their cost is real, their word is not.

Nothing is downloaded: the settings are written out here, those of ``stable-diffusion-v1-5`` and of
``stable-diffusion-xl-base-1.0``. The text encoder alone is a small one, since prompts are encoded once, before a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dreamprop.prior.stable_diffusion import make_scheduler, make_tokenizer

TOKENS = 77
"""Of a prompt, padding included."""


@dataclass(frozen=True)
class Sizes:
    """The settings of a model."""

    unet: Mapping[str, Any]
    """Of diffusers' ``UNet2DConditionModel``."""
    vae: Mapping[str, Any]
    """Of diffusers' ``AutoencoderKL``."""


def _vae(widths: tuple[int, ...], scaling_factor: float, **options: Any) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": scaling_factor,
        **options,
    }


SD15 = Sizes(
    {
        "sample_size": 64,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    _vae((128, 256, 512, 512), 0.18215, sample_size=512),
)
SDXL = Sizes(
    {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    _vae((128, 256, 512, 512), 0.13025, sample_size=1024),
)
FEW = {"layers_per_block": 1, "norm_num_groups": 4}
TINY_SD15 = Sizes(
    {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        **FEW,
    },
    _vae((4, 4), 0.18215, sample_size=16, **FEW),
)
TINY_SDXL = Sizes(
    {
        "sample_size": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "cross_attention_dim": 16,
        "attention_head_dim": (1, 2),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
        **FEW,
    },
    _vae((4, 4), 0.13025, sample_size=16, **FEW),
)


def make_unet(sizes: Sizes) -> UNet2DConditionModel:
    """An untrained U-Net, on the default device."""
    made: UNet2DConditionModel = UNet2DConditionModel(in_channels=4, out_channels=4, **sizes.unet)
    return made


def make_vae(sizes: Sizes) -> AutoencoderKL:
    """An untrained autoencoder, on the default device."""
    made: AutoencoderKL = AutoencoderKL(**sizes.vae)
    return made


def save(folder: Path, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Path:
    """Write a model of random weights in diffusers' layout; made on a device, since large ones take a CPU minutes."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = TOKENS
    width = sizes.unet["cross_attention_dim"]
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width, num_hidden_layers=1,
        num_attention_heads=width // 8, max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        with device:
            parts = {
                "unet": make_unet(sizes),
                "vae": make_vae(sizes),
                "text_encoder": CLIPTextModel(text_config),
            }
    for name in list(parts):  # one after another is given back: the largest takes 10 GB in single precision
        parts.pop(name).to(dtype).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
    tokenizer.save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


class Conditioned(nn.Module):
    """A U-Net that hears of sizes and of the whole prompt too, as SDXL's does, with zeros for both.

    Our guidance speaks to U-Nets that hear timesteps and tokens alone. What these additions cost is a small network on
    one vector a picture.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet, self.config = unet, unet.config
        self.pooled = (
            unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, **options: Any) -> Any:
        added = {
            "text_embeds": noisy.new_zeros(len(noisy), self.pooled),
            "time_ids": noisy.new_zeros(len(noisy), 6),
        }
        return self.unet(noisy, timesteps, added_cond_kwargs=added, **options)
