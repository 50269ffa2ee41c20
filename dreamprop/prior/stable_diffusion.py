"""The latent model's architecture: Stable Diffusion's own classes and settings (arXiv:2112.10752), only smaller.

Pictures of 64 x 64 become latents of 4 x 16 x 16; the U-Net predicts the noise and hears the prompt by cross-attention at
8 x 8 and 4 x 4.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamprop.prior.captions import words

MAX_TOKENS = 24
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SIZE = 64
"""Side of a picture in pixels."""
SHRINK = 4
"""Pixels to an element of a latent."""
WIDTH = 128
"""Features of a token."""


def make_tokenizer(corpus: Sequence[str] | None = None) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, trained until each word of the corpus (default: the world's words) is one token.

    Every byte is a token, so that any text can be read; words that are not known come out in pieces.
    """
    suffix = "</w>"
    trained = Tokenizer(models.BPE(end_of_word_suffix=suffix, continuing_subword_prefix=""))
    trained.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pattern = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix=suffix)
    trained.train_from_iterator(words() if corpus is None else corpus, trainer)
    merges = [tuple(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*bytes_, *(b + suffix for b in bytes_), *("".join(m) for m in merges), BEGIN, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    with TemporaryDirectory() as folder:  # the class reads CLIP's own two files
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
        lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
        (Path(folder) / "merges.txt").write_text("\n".join(lines) + "\n")
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
        config |= {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        made: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return made


def make_scheduler() -> PNDMScheduler:
    """Stable Diffusion 1.5's scheduler: its betas, its prediction of the noise."""
    return PNDMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


def make_autoencoder(seed: int, widths: Sequence[int] = (16, 32, 32)) -> AutoencoderKL:
    """An untrained autoencoder without attention, from a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n = len(widths)
        vae: AutoencoderKL = AutoencoderKL(
            sample_size=SIZE, latent_channels=4, block_out_channels=tuple(widths), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
            norm_num_groups=8, mid_block_add_attention=False,
        )  # fmt: skip
    return vae


def make_unet(seed: int, widths: Sequence[int] = (32, 64, 128)) -> UNet2DConditionModel:
    """An untrained U-Net, from a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: UNet2DConditionModel = UNet2DConditionModel(
            sample_size=SIZE // SHRINK, in_channels=4, out_channels=4, block_out_channels=tuple(widths),
            layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    return unet


def make_text_encoder(seed: int, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder, from a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3,
                num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=WIDTH,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids [N, MAX_TOKENS]."""
    batch: Any = tokenizer(
        prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


def save(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write the folder of a `StableDiffusionPipeline` in half precision, beside its place and renamed onto it."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    for name, module in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
        half: nn.Module = (
            type(module)(module.config) if name == "text_encoder" else type(module).from_config(module.config)
        )
        half.load_state_dict(module.state_dict())
        half.half().save_pretrained(beside / name, safe_serialization=True)  # type: ignore[operator]
    make_scheduler().save_pretrained(beside / "scheduler")
    tokenizer.save_pretrained(beside / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (beside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(beside, folder)
