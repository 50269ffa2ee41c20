"""A guidance that knows what it wants: a coloured ball, in the place of a diffusion model's weights.

What a step renders is pulled to the ball's analytic picture from the step's camera, with noise on it. So a run has
a result that can be told apart from another one, without trained weights; all else of a system stays upstream's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.ball import Ball, Frozen

NAME, VSD = "toy-ball-guidance", "toy-ball-vsd-guidance"
LATENTS = 4 * 64 * 64
"""Elements of what upstream's guidances sum their loss over; the weights of the other losses are made for it."""


def register() -> None:
    """Make both guidances known to threestudio."""
    import threestudio
    from threestudio.utils.base import BaseModule, BaseObject
    from threestudio.utils.misc import C
    from threestudio.utils.ops import get_ray_directions, get_rays

    if NAME in threestudio.__modules__:
        return

    @dataclass
    class Settings:
        radius: float = 0.5
        noise: Any = 0.5
        """Standard deviation of the noise; a schedule by step may be given."""
        losses: list[str] = field(default_factory=lambda: ["sds"])
        """Under which names the loss is handed out."""

    class Pull:
        """What both guidances have in common."""

        cfg: Any

        def configure(self) -> None:
            self.frozen = Frozen(Ball(self.cfg.radius))
            self.level = 0.0

        def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
            self.level = C(self.cfg.noise, epoch, global_step)

        def target(self, rgb: Tensor, c2w: Tensor, fovy: Tensor) -> Tensor:
            """The ball's picture from the cameras of a batch, as large as what was rendered."""
            height, width, channels = rgb.shape[1:]
            plane = get_ray_directions(height, width, 0.5 * height)  # of a field of view of 90 degrees
            plane = plane.expand(len(rgb), -1, -1, -1).clone()
            plane[..., :2] *= (0.5 * fovy).tan()[:, None, None, None]
            with torch.no_grad():
                return self.frozen.unet(*get_rays(plane, c2w, keepdim=True, normalize=True), channels)

        def loss(self, rgb: Tensor, grad: Tensor) -> Tensor:
            """A loss whose gradient points along ``grad``, which is large as upstream's over all latents is."""
            wanted = (rgb - grad).detach()
            return 0.5 * LATENTS * (rgb - wanted).square().mean()

    @threestudio.register(NAME)
    class ToyGuidance(Pull, BaseObject):
        @dataclass
        class Config(Settings):
            pass

        def __call__(self, rgb: Tensor, prompt_utils: Any, **batch: Any) -> dict[str, Tensor]:
            grad = rgb - self.target(rgb, batch["c2w"], batch["fovy"]) + self.level * torch.randn_like(rgb)
            return {f"loss_{name}": self.loss(rgb, grad) for name in self.cfg.losses}

    @threestudio.register(VSD)
    class ToyVSDGuidance(Pull, BaseModule):
        """Variational score distillation's shape: a part of its own learns what the scene's pictures look like."""

        @dataclass
        class Config(Settings):
            weights: str | None = None
            channels: int = 3

        def configure(self) -> None:
            super().configure()
            self.lora_layers = nn.Linear(self.cfg.channels, self.cfg.channels)
            self.camera_embedding = nn.Linear(16, self.cfg.channels)
            for part in (self.lora_layers, self.camera_embedding):  # at first it says what it is told
                nn.init.zeros_(part.weight)
                nn.init.zeros_(part.bias)

        def denoised(self, noisy: Tensor, c2w: Tensor) -> Tensor:
            """What the trained part takes for the picture behind a noisy one."""
            return noisy + self.lora_layers(noisy) + self.camera_embedding(c2w.flatten(1))[:, None, None]

        def forward(
            self, rgb: Tensor, prompt_utils: Any, c2w: Tensor, fovy: Tensor, **batch: Any
        ) -> dict[str, Tensor]:
            noisy = rgb + self.level * torch.randn_like(rgb)
            with torch.no_grad():
                grad = self.denoised(noisy, c2w) - self.target(rgb, c2w, fovy)
            again = (rgb + self.level * torch.randn_like(rgb)).detach()
            learnt = (self.denoised(again, c2w) - rgb.detach()).square().mean()
            return {"loss_vsd": self.loss(rgb, grad), "loss_lora": learnt}
