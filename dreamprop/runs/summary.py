"""`summary.json`: the numbers of a run, and what it depends on."""

import platform
import time
from importlib import metadata
from typing import Any

import torch

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.parallel import evaluator_name
from dreamprop.solver import audit
from dreamprop.state import State
from dreamprop.utils.device import device_of

SUMS = (
    "rounds", "drifts", "speedup_rounds", "wall_seconds", "seconds_per_step", "skipped", "audit", "seconds",
)  # fmt: skip
"""What is summed over all rounds, and null where a run went on without the lines of some."""


def summarize(
    process: Any,
    experiment: Experiment,
    state: State,
    log: RoundLog,
    communicator: Communicator,
    *,
    sequential: bool,
) -> dict[str, Any]:
    """The numbers of a run, as `summary.json` holds them."""
    config = experiment.config
    steps, rounds, seconds = state.step, len(log.rows), log.wall_seconds
    device = device_of(config.device)
    told: dict[str, Any] = {
        "prompt": experiment.prompt,
        "method": experiment.method.name,
        "steps": steps,
        "rounds": rounds,
        "drifts": log.drifts,
        "speedup_rounds": steps / rounds if rounds else 1.0,
        "wall_seconds": seconds,
        "seconds_per_step": seconds / steps,
        "window": 1 if sequential else config.parallel.window,
        "tolerance": config.parallel.tolerance,
        "error_rule": config.parallel.error_rule,
        "evaluator": "serial" if sequential else evaluator_name(process, config.parallel, communicator),
        "world_size": 1 if sequential else communicator.size,
        "layout": "replicated" if sequential else config.parallel.layout,
        "sub_batch": None if sequential else config.parallel.sub_batch,
        "skipped": log.skipped,
        "audit": audit.summary(log.audits),
        "seconds": log.laps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(next(iter(state.params.values())).dtype).removeprefix("torch."),
        "seed": config.seed,
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return told if log.complete else told | dict.fromkeys(SUMS)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("torch", "diffusers", "transformers", "nerfacc", "numpy")
    return {"dreamprop": dp.__version__, "python": platform.python_version()} | {
        package: metadata.version(package) for package in packages
    }
