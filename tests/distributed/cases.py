"""Chains and ways to solve them whose result must not depend on how many processes share the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import dreamprop as dp
from dreamprop.optim import OPTIMIZERS, ParamGroup
from dreamprop.optim.resize import resize_moments, resize_params
from dreamprop.rng import generator
from dreamprop.solver.window_choice import Decision


class Chain:
    """A coupled chain of a few thousand numbers that grows and shrinks, with buffers, and a look at the whole now and
    then; PIECE is made small, so that every process holds pieces of it."""

    boundaries: Sequence[int] = (5, 17)

    def __init__(self, optimizer: str, **options: Any) -> None:
        groups = [
            ParamGroup(("grid", "scale"), 0.05, name="main"),
            ParamGroup(("rows", "few"), [2, 0.05, 0.02, 20], name="side"),
        ]
        self.optimizer = OPTIMIZERS[optimizer](groups, **options)

    def init(self) -> dp.State:
        g = generator(0, 0, "init")
        shapes = {"grid": (3, 331), "scale": (), "rows": (200, 3), "few": (5,)}
        params = {n: torch.randn(s, generator=g) for n, s in shapes.items()}
        buffers = {"mean": torch.zeros(()), "count": torch.zeros((), dtype=torch.int64)}
        return dp.State(params, self.optimizer.init(params), buffers, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        g = generator(0, state.step, "noise")
        total = sum(p.mean() for p in state.params.values()) + state.buffers["mean"]
        grads = {
            n: (p - 1).sin() + 0.1 * total.cos() + 0.3 * torch.randn(p.shape, generator=g)
            for n, p in state.params.items()
        }
        return dp.Drift(grads, {"mean": total, "odd": torch.tensor([state.step % 2 == 1])})

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        mean = 0.9 * state.buffers["mean"] + 0.1 * drift.aux["mean"]
        count = state.buffers["count"] + drift.aux["odd"].sum()
        if not self.elementwise(state.step + 1):
            mean = mean + 0.01 * params["grid"].mean()
        if state.step + 1 in self.boundaries:
            old = params["rows"].shape[0]
            g = generator(0, state.step + 1, "split")
            index = torch.randint(old, (2 * old if state.step + 1 == 5 else old // 3,), generator=g)
            params = resize_params(params, ["rows"], index)
            moments = resize_moments(moments, ["rows"], index)
        return dp.State(params, moments, {"mean": mean, "count": count}, state.step + 1)

    def predict(self, state: dp.State) -> dp.State:
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        buffers = dict(state.buffers)
        if not self.elementwise(state.step + 1):
            buffers["mean"] = buffers["mean"] + 0.01 * params["grid"].mean()
        return dp.State(params, moments, buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, dp.Group]:
        return self.optimizer.groups(step)

    def elementwise(self, step: int) -> bool:
        return step % 7 != 0 and step not in self.boundaries


class Cramped(Chain):
    """The second process has room for one state."""

    def drift_window(self, states: Sequence[dp.State]) -> list[dp.Drift]:
        if len(states) > 1 and os.environ.get("RANK") == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return [self.drift(state) for state in states]


def wrapped(kind: type[torch.optim.Optimizer], max_norm: float | None = None, **options: Any) -> dp.Process:
    """A PyTorch loop with running statistics, and a parameter whose gradient is not always there."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(9, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 7), nn.Linear(7, 7))
    groups = [
        {"params": list(module[:4].parameters())},
        {"params": list(module[4].parameters()), "lr": 0.004},
    ]

    def loss_fn(net: nn.Module, step: int, g: torch.Generator) -> torch.Tensor:
        x = torch.randn(16, 9, generator=g) + 0.1 * torch.randn(9)
        y = net[:4](x)  # type: ignore[index]
        return (y if step % 3 == 1 else net[4](y)).square().mean()  # type: ignore[index]

    return dp.wrap(module, loss_fn, kind(groups, lr=0.02, **options), max_norm=max_norm)


def dreamfusion(scene: str, loss: str = "sds", particles: int = 1) -> dp.Process:
    """The real thing, small: a voxel grid that grows, or a hash grid with its occupancy."""
    from dreamprop.guidance.config import GuidanceConfig, PromptConfig
    from dreamprop.methods.config import DataConfig, SystemConfig
    from dreamprop.methods.dreamfusion import DreamFusion
    from dreamprop.scenes.config import EncodingConfig, GeometryConfig, RendererConfig  # fmt: skip

    geometry = GeometryConfig(resolution=[24, 36], resolution_milestones=[4])
    if scene == "implicit-volume":
        geometry = GeometryConfig(pos_encoding_config=EncodingConfig(log2_hashmap_size=13))
    system = SystemConfig(
        geometry_type=scene,
        geometry=geometry,
        renderer=RendererConfig(num_samples_per_ray=12),
        prompt_processor=PromptConfig(prompt="a red torus"),
        guidance=GuidanceConfig(pretrained_model_name_or_path="embedded-pixel", loss=loss),
        num_particles=particles,
    )
    return DreamFusion(DataConfig(batch_size=particles, width=16, height=16), system, max_steps=8)


def dreamgaussian() -> dp.Process:
    """Gaussians that are cloned, split, pruned and lowered, and seen at more pixels on the way."""
    from tests.methods.small_dreamgaussian import make

    return make("embedded-pixel", max_points=120, densify_grad_threshold=0.15, min_opacity=0.093)


def denoising(name: str, steps: int) -> dp.Process:
    """Pictures by a scheduler of diffusers, two of them side by side."""
    from dreamprop.sampling import Denoising, PureScheduler
    from tests.sampling.pipes import network, scheduler

    pure = PureScheduler(scheduler(name), steps)
    latents = torch.randn(2, 4, 6, 6, generator=generator(0, 0, "latents"))
    return Denoising(network, pure, latents * pure.init_noise_sigma, seed=1)


STEP = {"tolerance": 1.0}
PAPER = {"error_rule": "paper", "threshold": 2000.0}
DECIDED = [Decision(0, 1, 2), Decision(2, 8, 9), Decision(9, 5)]

Case = tuple[Callable[[], dp.Process], int, dict[str, Any], int | None]
"""How to make the chain, its steps, arguments of ``solve``, and ``sub_batch``."""

CASES: dict[str, Case] = {
    "Adam": (lambda: Chain("Adam"), 24, {"window": 7, **STEP}, 1),
    "AdamW, paper": (lambda: Chain("AdamW"), 24, {"window": 8, **PAPER}, 2),
    "Adam, exact": (lambda: Chain("Adam", amsgrad=True), 12, {"window": 5, "tolerance": 0.0}, 1),
    "SGD": (lambda: Chain("SGD", momentum=0.9, nesterov=True), 24, {"window": 3, "tolerance": 2.0}, 1),
    "Adan, hold": (lambda: Chain("Adan"), 24, {"window": 8, "predictor": "hold", **PAPER}, 3),
    "decided windows": (lambda: Chain("Adam"), 24, {"window": DECIDED, **STEP}, 1),
    "too large for one": (lambda: Cramped("Adam"), 16, {"window": 8, **STEP}, 4),
    "wrapped Adam": (lambda: wrapped(torch.optim.Adam), 20, {"window": 6, **STEP}, 1),
    "wrapped, clipped": (lambda: wrapped(torch.optim.AdamW, max_norm=0.1), 12, {"window": 5, **STEP}, 1),
    "wrapped SGD": (lambda: wrapped(torch.optim.SGD, momentum=0.9), 20, {"window": 8, "tolerance": 2.0}, 2),
    "voxel grid": (lambda: dreamfusion("volume-grid"), 8, {"window": 5, **STEP}, 2),
    "voxel grids and a LoRA": (
        lambda: dreamfusion("volume-grid", loss="vsd", particles=2),
        6,
        {"window": 4, **STEP},
        1,
    ),
    "hash grid": (lambda: dreamfusion("implicit-volume"), 6, {"window": 4, **STEP}, 1),
    "Gaussians": (dreamgaussian, 10, {"window": 4, **STEP}, 1),
    "DDPM": (lambda: denoising("DDPMScheduler", 20), 20, {"window": 6, "tolerance": 0.3}, 2),
    "DPM-Solver++": (
        lambda: denoising("DPMSolverMultistepScheduler", 12),
        12,
        {"window": 5, "tolerance": 0.0},
        1,
    ),
}

WAYS = ("replicated", "sharded")


def ways(name: str) -> tuple[str, ...]:
    """The layouts that a case is solved in: latents are too few to be cut."""
    return WAYS[:1] if name.startswith("D") else WAYS
