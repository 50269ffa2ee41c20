"""What a loop of one's own gains on one device: its window one by one, side by side, and mapped.

    python benchmarks/wrap.py
    python benchmarks/wrap.py --threads 1

Score distillation of a picture, written as an engineer's loop: pixels are the parameters; the U-Net and, in a model of
latents, the autoencoder are frozen, and gradients flow through the encoder. The first table times a window in the
middle of a run and holds its gradients against those one by one; ways take turns. The second is whole runs, against
the sequential one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from common import table
from torch import Tensor, nn

import dreamprop as dp
from dreamprop import prior
from dreamprop.guidance import diffusion

GUIDANCE_SCALE = 25.0
LEARNING_RATE = 0.03


class Picture(nn.Module):
    """A picture whose pixels are parameters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(3, size, size))

    def forward(self) -> Tensor:
        """[1, 3, H, W] in [0, 1]"""
        return self.pixels.sigmoid()[None]


class Loop:
    """Score distillation of a picture."""

    def __init__(self, name: str, prompt: str, device: torch.device) -> None:
        model = diffusion.load(prior.MODELS.get(name, name), device)
        self.model, self.unet, self.vae = model, model.unet, model.vae
        self.unet.to(memory_format=torch.contiguous_format)  # vmap knows no other
        self.text = model.embed(["", prompt])
        side = model.resolution // model.vae_scale_factor
        self._latents = (1, model.channels, side, side)
        self.module = Picture(model.resolution).to(device)

    def draw(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The draws of a step: a timestep, the noise, and that of the autoencoder."""
        total = len(self.model.alphas_cumprod)
        timestep = torch.randint(total // 50, total * 49 // 50, (1,), generator=generator)
        noise, posterior = (torch.randn(self._latents, generator=generator) for _ in range(2))
        return {"timestep": timestep, "noise": noise, "posterior": posterior}

    def mapped(self, module: nn.Module, step: Any, drawn: dict[str, Tensor]) -> Tensor:
        """The loss of (module, step, draws): its gradient is that of score distillation."""
        timestep, noise = drawn["timestep"], drawn["noise"]
        z = module() * 2 - 1
        if self.vae is not None:
            posterior = self.vae.encode(z).latent_dist
            z = (posterior.mean + posterior.std * drawn["posterior"]) * self.vae.config.scaling_factor
        with torch.no_grad():
            alphas_cumprod = self.model.alphas_cumprod[timestep].view(-1, 1, 1, 1)
            noisy = alphas_cumprod.sqrt() * z + (1 - alphas_cumprod).sqrt() * noise
            out = self.unet(noisy.repeat(2, 1, 1, 1), timestep.repeat(2), self.text).sample
            uncond, text = out.chunk(2)
            predicted = uncond + GUIDANCE_SCALE * (text - uncond)
            if self.model.prediction == "v_prediction":
                predicted = alphas_cumprod.sqrt() * predicted + (1 - alphas_cumprod).sqrt() * noisy
            grad = (1 - alphas_cumprod) * (predicted - noise)
        return (z * grad).sum()

    def plain(self, module: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        """The loss of (module, step, generator)."""
        drawn = self.draw(step, generator)
        return self.mapped(module, step, {k: v.to(self.model.device) for k, v in drawn.items()})

    def processes(self, check: bool = True) -> dict[str, Any]:
        """The process of each way."""
        frozen = [self.unet] if self.vae is None else [self.unet, self.vae]
        mapped = {"vectorize": True, "sample_fn": self.draw}
        return {
            "one by one": self.wrap(self.plain, check=check),
            "frozen": self.wrap(self.plain, frozen=frozen, check=check),
            "vectorize": self.wrap(self.mapped, **mapped, check=check),
        }

    def wrap(self, loss: Callable[..., Tensor], **more: Any) -> Any:
        """A process of the loop."""
        optimizer = torch.optim.Adam(self.module.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
        return dp.wrap(self.module, loss, optimizer, seed=0, **more)


def seconds(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Time that a call takes, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    found = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, found


def off(some: Sequence[dp.Drift], others: Sequence[dp.Drift]) -> float:
    """The largest relative difference of a gradient."""
    pairs = [(a.grads[n], b.grads[n]) for a, b in zip(some, others, strict=True) for n in a.grads]
    return max(float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in pairs)


def windows(loop: Loop, args: argparse.Namespace) -> list[list[str]]:
    """A row for each way: a window in the middle of a run."""
    device = loop.model.device
    unchecked = loop.processes(check=False)  # checks are a matter of whole runs
    states = [dp.solve_sequential(unchecked["one by one"], args.begin).state]
    while len(states) < args.window:
        states.append(unchecked["one by one"].predict(states[-1]))
    drifts = {name: process.drift_window(states) for name, process in unchecked.items()}
    taken: dict[str, list[float]] = {name: [] for name in unchecked}
    for _ in range(args.repeat):
        for name, process in unchecked.items():
            taken[name].append(seconds(partial(process.drift_window, states), device)[0])
    first = median(taken["one by one"])
    return [
        [name, f"{1e3 * median(times) / args.window:.1f}", f"{first / median(times):.2f}",
         f"{off(drifts['one by one'], drifts[name]):.1e}"]
        for name, times in taken.items()
    ]  # fmt: skip


def runs(loop: Loop, args: argparse.Namespace) -> list[list[str]]:
    """A row for each way: a whole run, checks and all."""
    device = loop.model.device
    ways = loop.processes()
    sequential, _ = seconds(lambda: dp.solve_sequential(ways["one by one"], args.steps), device)
    rows = [["sequential", f"{sequential:.2f}", str(args.steps), "1.00"]]
    for name, process in ways.items():
        taken, done = seconds(partial(dp.solve, process, args.steps, args.window), device)
        rows.append([name, f"{taken:.2f}", str(done.stats.num_rounds), f"{sequential / taken:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="embedded", help="embedded, embedded-pixel, or a folder of diffusers'"
    )
    parser.add_argument("--prompt", default="a red torus")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--begin", type=int, default=40, help="step of the first state of the window")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of the whole runs; 0: none")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loop = Loop(args.model, args.prompt, torch.device(args.device))
    print(
        table(["a window", "ms a step", "one by one / this", "gradients differ by"], windows(loop, args)),
        "\n",
    )
    if args.steps:
        print(table(["a run", "seconds", "rounds", "sequential / this"], runs(loop, args)))


if __name__ == "__main__":
    main()
