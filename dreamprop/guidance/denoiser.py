"""The frozen model as losses ask it: for the noise in pictures, with the prompt or without one.

Legend: N pictures, M of them asked about, C channels of what the U-Net sees, T timesteps, L tokens, D features of a
token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:  # the settings know the losses, and should not wait for diffusers
    from dreamprop.guidance.diffusion import Model


class Denoiser(Protocol):
    """Predictions of the noise in N pictures, each of which has its own prompt; no gradient passes through them."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] cumulative products of alpha (abar) by timestep"""
        ...

    def unconditional(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """eps(x, t, empty): the noise [M, C, h, w] in any pictures, told nothing.

        Args:
            noisy: [M, C, h, w]
            timesteps: [M] int64
        """
        ...

    def guided(self, noisy: Tensor, timesteps: Tensor, scale: Tensor | float) -> Tensor:
        """eps_u + s (eps_c - eps_u): the noise [N, C, h, w] with classifier-free guidance (arXiv:2207.12598, eq. 6).

        The paper's weight is s - 1. eps_c is told the prompt of each picture, eps_u the negative prompt.

        Args:
            noisy: [N, C, h, w], all of the pictures in their order.
            timesteps: [N] int64
            scale: s, [N, 1, 1, 1] or one number; 0 is the negative prompt alone, 1 the prompt alone.
        """
        ...


@dataclass(frozen=True)
class PromptedModel:
    """A `Denoiser` that asks a diffusion model about the pictures of N cameras; all of a call go through the U-Net
    together."""

    model: Model
    text: Tensor
    """[2 N, L, D] N times the negative prompt, then the prompt of each camera"""
    empty: Tensor
    """[L, D] the prompt without a word"""

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T]"""
        return self.model.alphas_cumprod

    def unconditional(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """eps(x, t, empty)"""
        out = self.model.predict(noisy, timesteps, self.empty.expand(len(noisy), -1, -1))
        return to_epsilon(out, noisy, self._alphas_cumprod(timesteps), self.model.prediction)

    def guided(self, noisy: Tensor, timesteps: Tensor, scale: Tensor | float) -> Tensor:
        """eps_u + s (eps_c - eps_u)"""
        out = self.model.predict(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), self.text)
        uncond, told = out.chunk(2)
        # guidance is affine in the prediction, so it may come before the prediction is turned to noise
        return to_epsilon(
            uncond + scale * (told - uncond), noisy, self._alphas_cumprod(timesteps), self.model.prediction
        )

    def _alphas_cumprod(self, timesteps: Tensor) -> Tensor:
        return self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)


def to_epsilon(prediction: Tensor, noisy: Tensor, alphas_cumprod: Tensor, kind: str) -> Tensor:
    """The noise that a prediction amounts to; v as in arXiv:2202.00512, v = sqrt(abar) eps - sqrt(1 - abar) z.

    Args:
        prediction, noisy: [N, C, h, w].
        alphas_cumprod: [N, 1, 1, 1] cumulative.
        kind: `epsilon`, `v_prediction` or `sample`.
    """
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return alphas_cumprod.sqrt() * prediction + (1 - alphas_cumprod).sqrt() * noisy
    return (noisy - alphas_cumprod.sqrt() * prediction) / (1 - alphas_cumprod).sqrt()


def from_epsilon(noise: Tensor, noisy: Tensor, alphas_cumprod: Tensor, kind: str) -> Tensor:
    """The prediction that amounts to this noise: what `to_epsilon` undoes; arguments as there."""
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return (noise - (1 - alphas_cumprod).sqrt() * noisy) / alphas_cumprod.sqrt()
    return (noisy - (1 - alphas_cumprod).sqrt() * noise) / alphas_cumprod.sqrt()
