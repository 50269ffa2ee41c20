"""A Stable Diffusion of random weights in a folder, small enough for tests and benchmarks without a GPU.

threestudio's configs run on it with a few overrides. What upstream fixes stays: pictures of 512 x 512 become latents
of 64 x 64, and VSD's camera embedding is 1280 wide.
"""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", ",", "a", "red", "blue", "torus", "cube"]
WORDS += ["front", "side", "back", "overhead", "view"]


def save(folder: Path, seed: int = 0) -> Path:
    """Write it, in diffusers' layout."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
            time_embedding_dim=1280,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=77,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.save_pretrained(folder)
    return folder


def overrides(folder: Path, size: int = 16) -> list[str]:
    """Overrides that make a config small: the models in ``folder/sd``, pictures of so many pixels a side."""
    model, grid = folder / "sd", "system.geometry.pos_encoding_config"
    return [
        "use_timestamp=false",
        f"exp_root_dir={folder / 'outputs'}",
        "system.prompt_processor.prompt=a red torus",
        f"system.prompt_processor.pretrained_model_name_or_path={model}",
        f"system.guidance.pretrained_model_name_or_path={model}",
        "system.guidance.half_precision_weights=false",
        "system.renderer.num_samples_per_ray=8",
        f"{grid}.n_levels=3",
        f"{grid}.log2_hashmap_size=10",
        f"data.width={size}",
        f"data.height={size}",
        "trainer.precision=32",
    ]
