"""Tiny diffusion models with random weights, saved as folders in diffusers' layout, and what they are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from dreamprop.guidance.protocol import Draw, Pictures
from dreamprop.scenes.cameras import orbit, pose

WORDS = [
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    ",",
    "a",
    "red",
    "torus",
    "cube",
    "front",
    "side",
    "back",
    "overhead",
    "view",
]
ELEVATION, AZIMUTH = torch.tensor([0.0, 70.0, 10.0]), torch.tensor([0.0, 20.0, 170.0])
"""Cameras that see the front, the top and the back."""


def save(folder: Path, *, prediction: str = "epsilon", latent: bool = False, out_channels: int = 3) -> Path:
    """A pixel model of 8 x 8 pictures, or a latent one of 16 x 16 pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels = 4 if latent else 3
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            out_channels=channels if latent else out_channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=10,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
        )
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=10,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    unet.save_pretrained(folder / "unet")
    text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDPMScheduler(prediction_type=prediction).save_pretrained(folder / "scheduler")
    if latent:
        vae.save_pretrained(folder / "vae")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"] if latent else [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def asked(
    images: Tensor,
    draw: Draw,
    elevation: Tensor = ELEVATION,
    azimuth: Tensor = AZIMUTH,
    steps: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
) -> Pictures:
    """Pictures [N, 3, H, V] as a guidance is asked about them: those of a state each, at step 0, unless told others."""
    many = len(images)
    view = orbit(elevation, azimuth, torch.full((many,), 2.4), torch.full((many,), 45.0))
    return Pictures(images, elevation, azimuth, pose(view), draw, steps or [0] * many, counts or [1] * many)
