"""`summary.json` of a run that makes pictures, in the words of the other runs."""

from __future__ import annotations

import time
from typing import Any

import torch

from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.artifacts.judgement import judge_views
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.sampling.config import SamplingConfig
from dreamprop.runs.sampling.methods import METHODS
from dreamprop.runs.sampling.run import Sampled, Way
from dreamprop.runs.summary import versions


def summarize(
    experiment: Experiment, pipe: Any, way: Way, sampled: Sampled, communicator: Communicator
) -> dict[str, Any]:
    """The numbers of a run.

    Args:
        experiment: the checked config.
        pipe: the pipeline.
        way: how it was sampled.
        sampled: what came out.
        communicator: the processes that shared its rounds.
    """
    config: SamplingConfig = experiment.config
    stats, log, sampler, parallel = sampled.stats, sampled.log, config.system.sampler, config.parallel
    steps, seconds, device = stats.num_steps, log.wall_seconds, sampled.peak.device
    return {
        "prompt": experiment.prompt,
        "negative_prompt": config.system.prompt_processor.negative_prompt,
        "model": config.system.guidance.pretrained_model_name_or_path,
        "method": experiment.method if not way.alone else "sequential",
        "scheduler": type(pipe.scheduler).__name__,
        "num_inference_steps": sampler.num_inference_steps,
        "guidance_scale": config.system.guidance.guidance_scale,
        "images": len(sampled.images),
        "size": [int(sampled.images.shape[-1]), int(sampled.images.shape[-2])],
        "steps": steps,
        "rounds": stats.num_rounds,
        "drifts": stats.num_drifts,
        "speedup_rounds": stats.speedup_rounds,
        "speedup": stats.speedup,
        "wall_seconds": seconds,
        "seconds_per_step": seconds / max(steps, 1),
        "window": 1 if way.alone else parallel.window or way.resolved("window"),
        "windows": [decision.to_json() for decision in stats.decisions],
        "tolerance": way.resolved("tolerance"),
        "error_unit": METHODS[experiment.method].unit,
        "evaluator": way.evaluator,
        "world_size": 1 if way.alone else communicator.size,
        "sub_batch": None if way.alone else parallel.sub_batch,
        "seconds": log.laps,
        "peak_memory_bytes": sampled.peak.bytes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "seed": sampled.seed,
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "judge": judge_views(experiment.judged, sampled.images),
    }
