"""The latent model's architecture: Stable Diffusion's own classes and settings (arXiv:2112.10752), only smaller.

Pictures of 64 x 64 become latents of 4 x 16 x 16; the U-Net predicts the noise and hears the prompt by cross-attention
at 8 x 8 and 4 x 4.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamprop.prior.captions import words

MAX_TOKENS = 20
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
"""Ends the last token of a word."""
SIZE = 64
"""Side of a picture in pixels."""
SHRINK = 4
"""Pixels to an element of a latent."""
WIDTH = 128
"""Features of a token."""


def byte_pairs(corpus: Sequence[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding (arXiv:1508.07909) that make each word of a corpus one token.

    The most frequent pair is merged first, the alphabetically first one of several: the result depends on nothing else.
    """
    spelled = [[*word[:-1], word[-1] + SUFFIX] for word in sorted(set(corpus))]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in spelled for pair in itertools.pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in spelled:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges until each of the world's words is one token.

    Every byte is a token, so that any text can be read; words that are not known come out in pieces.
    """
    merges = byte_pairs(words())
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*bytes_, *(b + SUFFIX for b in bytes_), *("".join(m) for m in merges), BEGIN, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    with TemporaryDirectory() as folder:
        _write_clip_files(Path(folder), vocab, merges)
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
        config |= {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        made: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return made


def _write_clip_files(folder: Path, vocab: Mapping[str, int], merges: Sequence[Sequence[str]]) -> None:
    """Write CLIP's own two files, which every version of transformers reads."""
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's betas and prediction of the noise; latents are not clipped."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
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
            scaling_factor=1.0,  # given, lest diffusers puts its own default in its place when the config is read
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
    # with its image processors it takes seconds to import, and only this needs it
    from diffusers import StableDiffusionPipeline

    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    StableDiffusionPipeline(
        _half(vae), _half(text_encoder), tokenizer, _half(unet), make_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(beside)  # fmt: skip
    table = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    _write_clip_files(beside / "tokenizer", table["vocab"], table["merges"])
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(beside, folder)


def _half(module: Any) -> Any:
    """A copy of a module in half precision."""
    return copy.deepcopy(module).half()
