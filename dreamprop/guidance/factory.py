"""A guidance from the blocks of a config."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from dreamprop import prior
from dreamprop.guidance import diffusion
from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.guidance.losses import LEARNING, LOSSES
from dreamprop.guidance.prompt import Prompt, Views
from dreamprop.guidance.protocol import Guidance
from dreamprop.guidance.score_distillation import ScoreDistillation


def make_guidance(config: GuidanceConfig, prompt: PromptConfig, device: torch.device) -> Guidance:
    """The model that a config names, asked for a prompt.

    Raises:
        InputError: there is no such model, or the prompt has words that an embedded one does not know.
    """
    path = config.pretrained_model_name_or_path
    if path in prior.MODELS:
        from dreamprop.prior import vocabulary

        vocabulary.check(prompt.prompt)
        if prompt.negative_prompt:
            vocabulary.check(prompt.negative_prompt)
        path = str(prior.MODELS[path])
    model = diffusion.load(path, device, torch.float16 if config.half_precision_weights else torch.float32)
    views = Views(prompt.front_threshold, prompt.back_threshold, prompt.overhead_threshold)
    embedded = Prompt.of(model, prompt.prompt, prompt.negative_prompt, views, prompt.view_dependent_prompting)
    distillation = ScoreDistillation(
        model.without_text_encoder(),
        embedded,
        guidance_scale=config.guidance_scale,
        weighting=config.weighting_strategy,
        min_step_percent=config.min_step_percent,
        max_step_percent=config.max_step_percent,
        grad_clip=config.grad_clip,
        resolution=config.resolution,
    )
    if config.loss in LEARNING:
        from dreamprop.guidance.lora import LoRA
        from dreamprop.guidance.variational import VSD

        return VSD(distillation, LoRA(model.unet, config.lora_rank))
    return replace(distillation, loss=partial(LOSSES[config.loss], **config.loss_options))
