"""Prompts that know from where the camera looks (arXiv:2209.14988, section 3.2), with threestudio's thresholds.

Legend: N pictures, L tokens, D features of a token; angles in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.errors import InputError
from dreamprop.guidance.diffusion import Model
from dreamprop.scenes.directions import DIRECTIONS, Views


@dataclass(frozen=True)
class Prompt:
    """A prompt and a negative prompt as embeddings, computed once."""

    positive: Tensor
    """[len(DIRECTIONS), L, D]"""
    negative: Tensor
    """[L, D]"""
    empty: Tensor
    """[L, D] of no words, for predictions that are told nothing"""
    views: Views

    @classmethod
    def of(
        cls, model: Model, prompt: str, negative: str, views: Views, view_dependent: bool = True
    ) -> Prompt:
        """Embed `<prompt>, <direction> view` for every direction, the negative prompt, and none.

        Raises:
            InputError: the prompt is empty.
        """
        if not prompt.strip():
            raise InputError(f"prompt must have a word, got {prompt!r}; give system.prompt_processor.prompt")
        texts = [f"{prompt}, {d} view" if view_dependent else prompt for d in DIRECTIONS]
        embedded = model.embed([*texts, negative])
        empty = model.embed([""])[0] if negative else embedded[-1]
        return cls(embedded[:-1], embedded[-1], empty, views)

    def embeddings(self, elevation: Tensor, azimuth: Tensor) -> Tensor:
        """For N cameras [2 N, L, D]: first N times the negative prompt, then the prompts."""
        positive = self.positive[self.views.direction(elevation, azimuth)]
        return torch.cat([self.negative.expand_as(positive), positive])
