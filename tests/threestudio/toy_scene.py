"""A sibling of the double that has a result: a density in voxels, seen from six sides through an occupancy grid.

The grid is nerfacc's in small: nothing is occupied before its first update, it is updated every few steps from the
density of that moment and from what it remembers, its `binaries` are assigned anew, and only what is occupied is
rendered or gets a gradient.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.ball import Ball, Frozen

from .double import Updateable

SIDE, EVERY, DECAY, THRESHOLD = 16, 8, 0.8, 0.01
"""Voxels along a side of [-1, 1]^3; steps between updates; what is left of a remembered value; what is occupied."""
NOISE = 0.3


class Sides(IterableDataset, Updateable):
    """One of six sides a step."""

    def __iter__(self) -> Iterator[dict[str, int]]:
        while True:
            yield {}

    def collate(self, _: Any) -> dict[str, int]:
        return {"axis": random.randrange(3), "back": random.randrange(2)}


def rays(axis: int, back: int) -> tuple[Tensor, Tensor]:
    """Parallel rays [SIDE, SIDE, 3] through the voxels' columns."""
    line = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    u, v = torch.meshgrid(line, line, indexing="ij")
    start = torch.full_like(u, 2.0 if back else -2.0)
    columns = [u, v]
    columns.insert(axis, start)
    towards = torch.zeros(3)
    towards[axis] = -1.0 if back else 1.0
    return torch.stack(columns, -1), towards.expand(SIDE, SIDE, 3)


class Scene(nn.Module, Updateable):
    """Raw density and colour of voxels, a blob at first, and the occupancy grid over them."""

    def __init__(self) -> None:
        super().__init__()
        line = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
        place = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
        self.blob = 10 * (1 - place.norm(dim=-1) / 0.5)
        self.density = nn.Parameter(torch.zeros(SIDE, SIDE, SIDE))
        self.color = nn.Parameter(0.1 * torch.randn(SIDE, SIDE, SIDE, 3))
        self.register_buffer("occs", torch.zeros(SIDE, SIDE, SIDE))
        self.register_buffer("binaries", torch.zeros(SIDE, SIDE, SIDE, dtype=torch.bool))

    def alpha(self) -> Tensor:
        """Opacity of every voxel."""
        return 1 - torch.exp(-F.softplus(self.density + self.blob) * (2 / SIDE))

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.training and global_step % EVERY == 0:
            with torch.no_grad():
                now = self.alpha() * (0.9 + 0.2 * torch.rand(SIDE, SIDE, SIDE))
                self.occs = torch.maximum(DECAY * self.occs, now)
                self.binaries = self.occs > self.occs.mean().clamp_max(THRESHOLD)

    def forward(self, axis: int, back: int) -> Tensor:
        """The picture [SIDE, SIDE, 3] from a side, over grey."""
        alpha, color = self.alpha() * self.binaries, self.color.sigmoid()
        if back:
            alpha, color = alpha.flip(axis), color.flip(axis)
        through = torch.cumprod(1 - alpha, axis)
        before = torch.cat(
            [torch.ones_like(through.narrow(axis, 0, 1)), through.narrow(axis, 0, SIDE - 1)], axis
        )
        left = through.select(axis, SIDE - 1)[..., None]
        return (color * (alpha * before)[..., None]).sum(axis) + 0.5 * left


class Guidance(Updateable):
    """Pulls a picture to the ball's, with noise on it."""

    def __init__(self) -> None:
        self.frozen = Frozen(Ball())

    def target(self, axis: int, back: int) -> Tensor:
        """The ball from a side, [SIDE, SIDE, 3]."""
        with torch.no_grad():
            return self.frozen.unet(*rays(axis, back))

    def __call__(self, picture: Tensor, axis: int, back: int) -> Tensor:
        wanted = self.target(axis, back) + NOISE * torch.randn_like(picture)
        return 0.5 * (picture - wanted).square().sum()


class System(nn.Module, Updateable):
    """A system of threestudio's kind."""

    automatic_optimization = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.geometry, self.guidance = Scene(), Guidance()
        self.trainer: Any = None

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [self.geometry.density], "name": "density", "lr": 0.1},
            {"params": [self.geometry.color], "name": "color"},
        ]
        return {"optimizer": torch.optim.Adam(groups, lr=0.05, betas=(0.9, 0.99), eps=1e-15)}

    def log(self, name: str, value: Any) -> None:
        """What a trainer would do with it is of no interest."""

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        self.do_update_step(0, self.trainer.global_step)

    def training_step(self, batch: dict[str, int], index: int) -> dict[str, Tensor]:
        opacity = self.geometry.alpha().mean()
        return {"loss": self.guidance(self.geometry(**batch), **batch) + opacity}


def loader() -> DataLoader:
    """A loader as threestudio's data modules make it."""
    data = Sides()
    return DataLoader(data, batch_size=None, collate_fn=data.collate)
