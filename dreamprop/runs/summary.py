"""`summary.json`: the numbers of a run, and what it depends on."""

import platform
import time
from importlib import metadata
from typing import Any

import torch

import dreamprop as dp
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.loop import RunSettings, evaluator_name
from dreamprop.runs.recording import Recording
from dreamprop.solver import audit
from dreamprop.solver.window_choice import Windows, plain_seconds
from dreamprop.state import State

SUMS = (
    "rounds", "drifts", "speedup_rounds", "speedup", "wall_seconds", "seconds_per_step", "skipped", "audit", "seconds",
)  # fmt: skip
"""What is summed over all rounds, and null where a run went on without the lines of some."""


def summarize(
    process: Any,
    state: State,
    settings: RunSettings,
    record: Recording,
    communicator: Communicator,
    windows: Windows,
    *,
    prompt: str,
    method: str,
    seed: int,
) -> dict[str, Any]:
    """The numbers of a run, as `summary.json` holds them.

    Args:
        process: the chain.
        state: where it ended.
        settings: how far it went, and in which way.
        record: its rounds and its memory.
        communicator: the processes that shared its windows.
        windows: how wide its rounds were.
        prompt: what it made.
        method: by which method.
        seed: of the draws of its steps.
    """
    log, parallel, alone = record.log, settings.parallel, settings.sequential
    steps, rounds, seconds, device = state.step, len(log.rows), log.wall_seconds, record.peak.device
    plain, worked = plain_seconds(windows.decisions), seconds - log.laps["audit"]
    told: dict[str, Any] = {
        "prompt": prompt,
        "method": method,
        "steps": steps,
        "rounds": rounds,
        "drifts": log.drifts,
        "speedup_rounds": steps / rounds if rounds else 1.0,
        "speedup": plain * steps / worked if plain and worked else None,
        "wall_seconds": seconds,
        "seconds_per_step": seconds / max(steps, 1),
        "window": settings.window,
        "windows": [decision.to_json() for decision in windows.decisions],
        "tolerance": parallel.tolerance,
        "error_rule": parallel.error_rule,
        "evaluator": evaluator_name(process, settings, communicator),
        "world_size": 1 if alone else communicator.size,
        "layout": "replicated" if alone else parallel.layout,
        "sub_batch": None if alone else parallel.sub_batch,
        "skipped": log.skipped,
        "audit": audit.summary(log.audits),
        "seconds": log.laps,
        "peak_memory_bytes": record.peak.bytes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(next(iter(state.params.values())).dtype).removeprefix("torch."),
        "seed": seed,
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
