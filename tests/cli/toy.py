"""A process that takes no time, run by the real command line: `python tests/cli/toy.py ARGUMENTS`.

A ball whose radius and colour go towards the prompt's, with noise. Environment: TOY_SECONDS is what a drift
takes, TOY_NAN the step at which it is not finite, TOY_EMPTY leaves the scene without matter, TOY_BULK adds so many
numbers, and TOY_RAISE=rank:step, TOY_STALL=rank:step and TOY_DIE=rank:step let a rank raise, hang or die at that
step or a later one, unless the file TOY_ONCE says that it has.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.optim import Adam, ParamGroup
from dreamprop.rng import generator
from dreamprop.runs import experiment


@dataclass(frozen=True)
class ToyData:
    batch_size: int = 2


@dataclass(frozen=True)
class ToyPrompt:
    prompt: str = "a red sphere"


@dataclass(frozen=True)
class ToyGuidance:
    pretrained_model_name_or_path: str = "none"
    guidance_scale: float = 10.0


@dataclass(frozen=True)
class ToySystem:
    prompt_processor: ToyPrompt = field(default_factory=ToyPrompt)
    guidance: ToyGuidance = field(default_factory=ToyGuidance)


class Toy:
    """`loss = |radius - 0.5|^2 + |color - red|^2`, with noise in its gradient."""

    boundaries: tuple[int, ...] = ()
    bound = 1.0

    def __init__(
        self, data: ToyData, system: ToySystem, *, seed: int = 0, max_steps: int, device: torch.device
    ) -> None:
        self.seed, self.bulk = seed, int(os.environ.get("TOY_BULK", "0"))
        names = ("radius", "color", "bulk") if self.bulk else ("radius", "color")
        self.optimizer = Adam([ParamGroup(names, 0.02)])
        self.seconds = float(os.environ.get("TOY_SECONDS", "0"))
        self.nan = int(os.environ.get("TOY_NAN", "-1"))
        self.density = 0.0 if "TOY_EMPTY" in os.environ else 50.0

    def init(self) -> dp.State:
        params = {"radius": torch.tensor([0.2]), "color": torch.full((3,), 0.5)}
        if self.bulk:
            params["bulk"] = torch.linspace(-1, 1, self.bulk)
        return dp.State(params, self.optimizer.init(params), {}, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        time.sleep(self.seconds)
        trouble(state.step)
        noise = 0.4 * torch.randn(4, generator=generator(self.seed, state.step))
        if state.step == self.nan:
            noise = noise * torch.nan
        red = torch.tensor([0.9, 0.1, 0.1])
        radius, color = state.params["radius"], state.params["color"]
        grads = {"radius": radius - 0.5 + noise[:1], "color": color - red + noise[1:]}
        if self.bulk:
            grads["bulk"] = state.params["bulk"].sin() + noise.sum()
        return dp.Drift(grads)

    def drift_window(self, states: Sequence[dp.State]) -> list[dp.Drift]:
        return [self.drift(state) for state in states]

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        return dp.State(params, moments, {}, state.step + 1)

    def predict(self, state: dp.State) -> dp.State:
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return dp.State(params, moments, {}, state.step + 1)

    def groups(self, step: int) -> Mapping[str, dp.Group]:
        return self.optimizer.groups(step)

    def elementwise(self, step: int) -> bool:
        return True

    def density_and_color(self, state: dp.State, points: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.sigmoid((state.params["radius"] - points.norm(dim=-1)) * 30)
        return self.density * inside, state.params["color"].expand(len(points), 3)

    def render_views(
        self, state: dp.State, num_views: int = 8, width: int = 64, height: int = 64, elevation: float = 15.0
    ) -> Tensor:
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        mask = torch.sigmoid((state.params["radius"] - (x * x + y * y).sqrt()) * 20)
        light = torch.linspace(0.5, 1, num_views)[:, None, None, None]
        return (mask * light * state.params["color"][:, None, None] + (1 - mask)).clamp(0, 1)


def trouble(step: int) -> None:
    """What a test has asked for."""
    for name in ("TOY_RAISE", "TOY_STALL", "TOY_DIE"):
        where = os.environ.get(name)
        once = os.environ.get("TOY_ONCE", "")
        if not where or (once and os.path.exists(once)):
            continue
        rank, first = where.split(":")
        if os.environ.get("RANK", "0") != rank or step < int(first):
            continue
        if once:
            with open(once, "w") as file:
                file.write(str(time.time()))
        if name == "TOY_RAISE":
            raise RuntimeError("the toy broke")
        if name == "TOY_STALL":
            time.sleep(6)
        os.kill(os.getpid(), signal.SIGKILL)


def register() -> None:
    """Make the toy a method that a config can name."""
    experiment.METHODS["toy-system"] = experiment.Method("toy", Toy, ToyData, ToySystem)


CONFIG = """
name: toy
system_type: toy-system
trainer: {max_steps: 40}
parallel: {window: 8}
checkpoint: {every_n_train_steps: 10}
output: {views: 4, turntable_frames: 4, turntable_size: 32, view_size: 32, preview_every_n_steps: 0}
export: {resolution: 24}
"""


if __name__ == "__main__":
    register()
    from dreamprop.cli import main

    sys.exit(main())
