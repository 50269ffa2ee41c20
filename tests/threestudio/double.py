"""A small double of what threestudio's systems, modules and data sets offer, and of Lightning's order of a step.

It has what makes real ones hard: an occupancy grid that is updated now and then and assigned anew, a mask that
only grows, a width that is annealed and then stays, data that changes size, draws from Python's and PyTorch's
global generators, and a frozen network that hangs on a plain attribute.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from dreamprop.rng import seeded

CPU = torch.device("cpu")


class Updateable:
    """Whatever hears of each step before and after it."""

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        for name in list(vars(self)) + list(getattr(self, "_modules", {})):
            part = None if name.startswith("_") else getattr(self, name)
            if isinstance(part, Updateable):
                part.do_update_step(epoch, global_step, on_load_weights)
        self.update_step(epoch, global_step)

    def do_update_step_end(self, epoch: int, global_step: int) -> None:
        """Nothing here needs it."""

    def update_step(self, epoch: int, global_step: int) -> None:
        """What a part does before a step."""


class Cameras(IterableDataset, Updateable):
    """Random batches, larger from step 5 on."""

    def __init__(self) -> None:
        self.size = 2

    def update_step(self, epoch: int, global_step: int) -> None:
        self.size = 2 if global_step < 5 else 4

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield {}

    def collate(self, _: Any) -> dict[str, Tensor]:
        far = 2.0 if random.random() < 0.5 else 1.0
        return {"points": far * torch.rand(self.size, 3)}


class Encoding(nn.Module, Updateable):
    """Features of which more are let through as time goes on, and never fewer again."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(3, 8)
        self.mask = torch.zeros(8)
        self.width = 1.0

    def update_step(self, epoch: int, global_step: int) -> None:
        self.mask[: 4 + global_step // 3] = 1.0
        if 2 <= global_step <= 6:
            self.width = 1.0 + 0.1 * global_step

    def forward(self, points: Tensor) -> Tensor:
        return torch.tanh(self.table(points) * self.width) * self.mask


class Grid(nn.Module):
    """An occupancy grid: an average that decays, and what it says is full, assigned anew."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("occs", torch.zeros(16))
        self.register_buffer("binaries", torch.ones(16, dtype=torch.bool))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


class Geometry(nn.Module, Updateable):
    """An encoding, a head, and the grid over it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding, self.head, self.grid = Encoding(), nn.Linear(8, 4), Grid()
        self.register_buffer("count", torch.tensor(0))

    def update_step(self, epoch: int, global_step: int) -> None:
        if global_step % 4 == 0:
            with torch.no_grad():
                density = self(torch.rand(16, 3)).mean(-1).abs()
                self.grid.occs = torch.maximum(0.95 * self.grid.occs, density)
                self.grid.binaries = self.grid.occs > self.grid.occs.mean()
            self.count += 1

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.encoding(points))


class UNet(nn.Module):
    """A frozen network; counts how often it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).requires_grad_(False)
        self.runs = 0

    def forward(self, x: Tensor, t: Tensor, scale: float = 1.0) -> Tensor:
        self.runs += 1
        return self.inner(x) * scale + t[:, None]


class Counted(nn.Module):
    """A module that counts how often it is run."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(wide, 8), nn.Tanh(), nn.Linear(8, out))
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.inner(x)


class Posterior:
    """A distribution, as an encoder gives it."""

    def __init__(self, parameters: Tensor) -> None:
        self.mean, self.spread = parameters.chunk(2, -1)

    def sample(self) -> Tensor:
        return self.mean + 0.1 * self.spread * torch.randn_like(self.mean)


class VAE(nn.Module):
    """A frozen network that is entered by two methods of its own, one of them with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Counted(4, 8), Counted(4, 4)
        self.requires_grad_(False)

    def encode(self, x: Tensor) -> Posterior:
        return Posterior(self.encoder(x))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(2.0 * latents)


class Guidance(Updateable):
    """Score distillation in miniature."""

    def __init__(self) -> None:
        self.unet, self.vae = UNet(), VAE()
        self.most: float | None = None

    def update_step(self, epoch: int, global_step: int) -> None:
        self.most = 0.9 - 0.01 * global_step

    def __call__(self, x: Tensor) -> Tensor:
        latents = self.vae.encode(x).sample()
        with torch.no_grad():
            t = torch.rand(len(x)) * (self.most or 1.0)
            noise = torch.randn_like(latents)
            grad = self.unet(latents + t[:, None] * noise, t) - noise
        shown = self.vae.decode(latents.detach() - grad)  # gradients are recorded here, and none are needed
        return ((latents * grad).sum() + 0.1 * ((x - shown) ** 2).sum()) / len(x)


class System(nn.Module, Updateable):
    """A system of threestudio's kind."""

    automatic_optimization = True

    def __init__(self, schedule: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.geometry, self.guidance = Geometry(), Guidance()
        self.background = nn.Linear(3, 4)
        self.trainer: Any = None
        self._schedule = schedule

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            [
                {"params": list(self.geometry.parameters()), "name": "geometry", "lr": 0.02},
                {"params": list(self.background.parameters()), "name": "background"},
            ],
            lr=0.01,
            betas=(0.9, 0.99),
            eps=1e-15,
        )
        made: dict[str, Any] = {"optimizer": optimizer}
        if self._schedule:
            warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 4)
            fall = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
            both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[4])
            made["lr_scheduler"] = {"scheduler": both, "interval": "step"}
        return made

    def log(self, name: str, value: Any) -> None:
        """What a trainer would do with it is of no interest."""

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        self.dataset = self.trainer.train_dataloader.dataset
        self.dataset.do_update_step(0, self.trainer.global_step)
        self.do_update_step(0, self.trainer.global_step)

    def training_step(self, batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        points = batch["points"]
        x = self.geometry(points) + self.background(points) * random.random()
        inside = self.geometry.grid.binaries.float().mean()
        loss = self.guidance(x) + inside * (x**2).mean()
        self.log("train/loss", loss)
        return {"loss": loss}


def loader() -> DataLoader:
    """A loader as threestudio's data modules make it."""
    data = Cameras()
    return DataLoader(data, batch_size=None, collate_fn=data.collate)


def fit(
    system: System,
    steps: int,
    seed: int,
    *,
    accumulate: int = 1,
    clip: float = 0.0,
    scaler: Any = None,
) -> torch.optim.Optimizer:
    """Train in place in Lightning's order, one batch fetched ahead; draws are seeded by batch."""
    data = loader()
    made = system.configure_optimizers()
    optimizer, plan = made["optimizer"], made.get("lr_scheduler")
    view = SimpleNamespace(
        train_dataloader=data,
        global_step=0,
        optimizers=[optimizer],
        lr_scheduler_configs=[SimpleNamespace(**plan)] if plan else [],
    )
    system.trainer = view
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def fetch(index: int) -> Any:
        with seeded(seed, index, CPU, "batch"):
            return data.dataset.collate({})

    def call(hook: str, *args: Any) -> None:
        getattr(system, hook, lambda *_: None)(*args)

    ahead = fetch(0)
    for index in range(steps * accumulate):
        batch, ahead = ahead, fetch(index + 1)
        with seeded(seed, index, CPU, "step"):
            call("on_train_batch_start", batch, index)
            output = system.training_step(batch, index)
            loss = output["loss"] / accumulate
            outcome = output | {"loss": loss.detach().clone()}
            if index % accumulate == 0:
                optimizer.zero_grad()
            loss = loss if scaler is None else scaler.scale(loss)
            call("on_before_backward", loss)
            system.backward(loss) if hasattr(system, "backward") else loss.backward()
            call("on_after_backward")
            if (index + 1) % accumulate == 0:
                if scaler is not None:
                    scaler.unscale_(optimizer)
                call("on_before_optimizer_step", optimizer)
                if clip:
                    torch.nn.utils.clip_grad_norm_(parameters, clip)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
                if plan:
                    plan["scheduler"].step()
                view.global_step += 1
            call("on_train_batch_end", outcome, batch, index)
    return optimizer
