"""The score of a picture model on the clock of the Ornstein-Uhlenbeck process.

A model with levels alpha_bar[i], i = 0 .. T-1, is at the time t_i = -log alpha_bar[i]; between two of them its timestep
is read off by linear interpolation of t, and

    s(x, t) = -eps(x, i(t)) / sqrt(1 - e^{-t}).

Legend: B pictures, C x H x W a latent; N = W B latents, the pictures of one state after those of another.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dreamprop.sampling.ornstein_uhlenbeck import sigma


class NoisePredictor(Protocol):
    """What predicts the noise in B pictures, as ``sampling.pipeline.Prompted`` does."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] alpha_bar by timestep of the training."""
        ...

    def noise(self, samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        """The predicted noise [N, C, H, W] in samples [N, C, H, W] at timesteps [N] of pictures [N]."""
        ...


class PictureScore:
    """The score of B pictures.

    Args:
        model: of their noise.
        pictures: B.
    """

    def __init__(self, model: NoisePredictor, pictures: int) -> None:
        self.model, self.pictures = model, pictures
        self._times = -model.alphas_cumprod.detach().cpu().double().log()

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) [N, C, H, W] at x [N, C, H, W] and t [N]."""
        which = torch.arange(self.pictures, device=x.device).repeat(len(x) // self.pictures)
        eps = self.model.noise(x, self.timestep(t).to(x.dtype), which)
        return eps * (-1 / sigma(t)).to(x).view(-1, *[1] * (x.dim() - 1))

    def timestep(self, t: Tensor) -> Tensor:
        """Where in the training a time lies, a fraction in [0, T - 1]; [N] like t."""
        table = self._times.to(t.device)
        above = torch.searchsorted(table, t.contiguous()).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        return (above - 1 + (t - low) / (high - low)).clamp(0, len(table) - 1)

    def times(self, blocks: int, points: int) -> list[list[float]]:
        """Blocks of a grid that is even in the model's own timesteps, from the last to the first; [blocks] of
        [points + 1] falling times.

        Raises:
            ValueError: there is none of them, or they outnumber the model's timesteps.
        """
        for name, value in (("blocks", blocks), ("points", points)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}; use at least 1")
        last = len(self._times) - 1
        if blocks * points > last:
            raise ValueError(
                f"blocks times points must be <= {last}, got {blocks * points}; the model has no more timesteps"
            )
        index = torch.linspace(last, 0, blocks * points + 1, dtype=torch.float64)
        below = index.floor().long().clamp(max=last - 1)
        grid = torch.lerp(self._times[below], self._times[below + 1], index - below).tolist()
        return [grid[b * points : (b + 1) * points + 1] for b in range(blocks)]
