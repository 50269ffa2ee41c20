"""Training that can be stopped at any time and goes on bit for bit: weights, moments and their running average.

A checkpoint is a folder `step-NNNNNNN` with `state.safetensors` and `state.json`, written beside and renamed, so that
it is there whole or not at all; older ones are removed after it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreamprop.utils.atomic_io import replacing, write_json
from dreamprop.utils.signals import Guard, Interrupted

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 200 steps, hold, and fall linearly to a fiftieth over the last 30% of the run."""
    fall = min(1.0, (steps - step) / (0.3 * steps))
    return peak * min(1.0, (step + 1) / 200) * max(fall, 0.02)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file whole or not at all."""
    with replacing(path) as beside:
        save_file(dict(tensors), beside)


class Training:
    """A module, its AdamW moments and the exponential average of its weights."""

    def __init__(self, module: nn.Module, keep: float = 0.999) -> None:
        """Begin at step 0; `keep` is how much of the average a step keeps."""
        self.module, self.keep = module, keep
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.names = [name for name, _ in module.named_parameters()]
        self.params: list[nn.Parameter] = list(module.parameters())
        self._weights: list[Tensor] = [*self.params]
        self._smoothed: list[Tensor] = list(self.average.parameters())
        self.optimizer = torch.optim.AdamW(self.params, betas=BETAS, weight_decay=WEIGHT_DECAY, foreach=True)
        self.step = 0
        """Optimiser steps taken."""
        self.seconds = 0.0
        """Time spent on them, over all starts."""

    def update(self, loss: Tensor, lr: float) -> float:
        """Take one optimiser step down a loss.

        Returns:
            The loss.

        Raises:
            FloatingPointError: the loss is not finite; nothing was changed.
        """
        value = float(loss.detach())
        if value != value or abs(value) == float("inf"):
            raise FloatingPointError(f"the loss of step {self.step} is {value}; lower --lr and start again")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.params, 1.0, foreach=True)
        self.optimizer.step()
        # the average follows quickly while it is young
        keep = min(self.keep, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self._smoothed, self._weights, 1 - keep)
        self.step += 1
        return value

    def save(self, folder: Path) -> Path:
        """Write a checkpoint into a folder and remove the older ones.

        Returns:
            Where it is.
        """
        state = {f"now/{k}": v for k, v in self.module.state_dict().items()}
        state |= {f"mean/{k}": v for k, v in self.average.state_dict().items()}
        for name, p in zip(self.names, self.params, strict=True):
            state |= {f"{key}/{name}": self.optimizer.state[p][key] for key in ("exp_avg", "exp_avg_sq")}
        place = folder / f"step-{self.step:07d}"
        beside = folder / f".partial-{place.name}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_file({k: v.detach().contiguous() for k, v in state.items()}, beside / "state.safetensors")
        write_json(beside / "state.json", {"step": self.step, "seconds": self.seconds})
        shutil.rmtree(place, ignore_errors=True)
        os.replace(beside, place)
        for other in folder.glob("step-*"):
            if other != place:
                shutil.rmtree(other)
        return place

    def load(self, folder: Path) -> bool:
        """Go on from the latest checkpoint of a folder; False where there is none."""
        found = sorted(folder.glob("step-*"))
        if not found:
            return False
        facts = json.loads((found[-1] / "state.json").read_text())
        state = load_file(found[-1] / "state.safetensors")
        for prefix, module in (("now/", self.module), ("mean/", self.average)):
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            module.load_state_dict(part)
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        for name, p in zip(self.names, self.params, strict=True):
            self.optimizer.state[p] = {"step": torch.tensor(float(self.step))} | {
                # in the parameter's own memory format
                key: torch.empty_like(p, requires_grad=False).copy_(state[f"{key}/{name}"])
                for key in ("exp_avg", "exp_avg_sq")
            }
        return True


def run(
    training: Training,
    loss: Callable[[int], Tensor],
    folder: Path,
    *,
    steps: int,
    peak: float,
    save_minutes: float = 3.0,
    line_every: int = 100,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Train up to a number of steps in all, from where the latest checkpoint of the folder is.

    SIGINT and SIGTERM end the training after the step that is being taken, with a checkpoint.

    Args:
        training: what is trained.
        loss: of a step, whose draws depend on the step alone.
        folder: of the checkpoints and of loss.csv.
        steps: in all; the learning rate looks at it, see `learning_rate`.
        peak: learning rate.
        save_minutes: between checkpoints; the last step is always saved.
        line_every: steps between lines of progress.
        saved: called after each checkpoint, and for the one that is gone on from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if training.load(folder):
        print(f"going on from step {training.step}", flush=True)
        saved()  # what follows from a checkpoint may not have been written
    began = last = time.monotonic()
    before, running = training.seconds, 0.0
    count, first = 0, training.step

    def keep() -> None:
        training.save(folder)
        saved()

    with open(folder / "loss.csv", "a") as log, Guard() as guard:
        try:
            while training.step < steps:
                with guard.hold():
                    rate = learning_rate(training.step, steps, peak)
                    running += training.update(loss(training.step), rate)
                    count += 1
                    now = time.monotonic()
                    training.seconds = before + now - began
                    if training.step % line_every == 0 or training.step == steps:
                        speed = (training.step - first) / (now - began)
                        print(
                            f"step {training.step}/{steps} loss {running / count:.5f}, {speed:.2f} steps/s, "
                            f"{(steps - training.step) / speed / 60:.0f} minutes left",
                            flush=True,
                        )
                        line = f"{training.step},{running / count:.6f},{training.seconds:.0f}"
                        print(line, file=log, flush=True)
                        running, count = 0.0, 0
                    if now - last > 60 * save_minutes or training.step == steps:
                        keep()
                        last = now
        except Interrupted as signal:
            with guard.hold():
                keep()
            print(f"stopped after step {training.step}; the same command goes on", flush=True)
            raise SystemExit(128 + (signal.signum or 0)) from None


def arguments(
    description: str, out: str, *, steps: int, batch: int, lr: float, views: int, pair_views: int
) -> argparse.ArgumentParser:
    """The command line that all trainings share, with their own defaults."""
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--out", type=Path, default=Path(out), help="folder of the run; the same goes on")
    p.add_argument("--steps", type=int, default=steps, help="optimiser steps in all")
    p.add_argument("--batch", type=int, default=batch, help="pictures a step")
    p.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--views", type=int, default=views, help="traced views a shape")
    p.add_argument(
        "--pair-views", type=int, default=pair_views, help="traced views a pair of shapes and relation"
    )
    p.add_argument("--save-minutes", type=float, default=3.0, help="between checkpoints")
    return p


def add_bfloat16(parser: argparse.ArgumentParser) -> None:
    """The switch of trainings whose convolutions may be in bfloat16."""
    parser.add_argument(
        "--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="convolutions in bfloat16"
    )
