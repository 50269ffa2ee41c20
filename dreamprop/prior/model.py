"""The architecture of the model of 32-pixel pictures, in diffusers' and transformers' own classes.

A pixel-space U-Net of about a million parameters at 32 x 32, told the prompt twice: by cross-attention at 8 x 8 and, as
in DeepFloyd IF, by a pooled text embedding added to that of the timestep, which carries the colour to every resolution.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from dreamprop.prior import vocabulary
from dreamprop.prior.world import SIZE

MAX_TOKENS = 12


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word tokenizer whose normaliser holds the vocabulary's rewrites: "the tori, red" becomes torus, red."""
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *vocabulary.WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    rewrites = [normalizers.Replace(Regex(pattern), to) for pattern, to in vocabulary.REWRITES]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rewrites])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_TOKENS,
        pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
    )  # fmt: skip


@dataclass
class TextToImage:
    """The four components that a folder in diffusers' layout holds."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerFast
    scheduler: DDPMScheduler

    @classmethod
    def create(cls, seed: int) -> TextToImage:
        """Initialise the model from a seed; the global random state is left as it was."""
        tokenizer = make_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(
                sample_size=SIZE, in_channels=3, out_channels=3, block_out_channels=(16, 32, 64), layers_per_block=1,
                down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
                cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8, time_embedding_dim=128,
                resnet_time_scale_shift="scale_shift", addition_embed_type="text", addition_embed_type_num_heads=4,
            )  # fmt: skip
            text_encoder = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=64,
                    pad_token_id=0, bos_token_id=1, eos_token_id=2,
                )
            )  # fmt: skip
        scheduler = DDPMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
            clip_sample=True, rescale_betas_zero_snr=False,
        )  # fmt: skip
        return cls(unet, text_encoder, tokenizer, scheduler)

    def tokens(self, prompts: list[str]) -> Tensor:
        """Token ids [B, MAX_TOKENS]."""
        batch = self.tokenizer(
            prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        return batch.input_ids

    def save(self, folder: Path) -> None:
        """Write the folder in half precision with save_pretrained, beside its place and renamed onto it."""
        beside = folder.with_name(folder.name + ".new")
        shutil.rmtree(beside, ignore_errors=True)
        for name in ("unet", "text_encoder"):
            module = getattr(self, name)
            half = type(module).from_config(module.config) if name == "unet" else type(module)(module.config)
            half.load_state_dict(module.state_dict())
            half.half().save_pretrained(beside / name, safe_serialization=True)
        self.scheduler.save_pretrained(beside / "scheduler")
        self.tokenizer.save_pretrained(beside / "tokenizer")
        index = {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "vae": [None, None],
        }
        (beside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
