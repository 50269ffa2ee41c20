"""A small chain on a device: a hash grid, or a voxel grid, under a tiny latent model."""

from __future__ import annotations

from pathlib import Path

import torch

import dreamprop as dp
from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.scenes.config import EncodingConfig, GeometryConfig, RendererConfig
from dreamprop.state import State

KINDS = ("volume-grid", "implicit-volume")


def make(model: Path, device: torch.device, kind: str = "implicit-volume", half: bool = False) -> DreamFusion:
    """The process."""
    system = SystemConfig(
        geometry_type=kind,
        geometry=GeometryConfig(resolution=8, pos_encoding_config=EncodingConfig(n_levels=2)),
        renderer=RendererConfig(num_samples_per_ray=12, eval_num_samples_per_ray=16),
        prompt_processor=PromptConfig(prompt="a red torus"),
        guidance=GuidanceConfig(pretrained_model_name_or_path=str(model), half_precision_weights=half),
    )
    return DreamFusion(DataConfig(batch_size=2, width=8, height=8), system, max_steps=100, device=device)


def walk(process: DreamFusion, steps: int) -> list[State]:
    """States that follow one another."""
    states = [process.init()]
    while len(states) < steps:
        states.append(process.update(states[-1], process.drift(states[-1])))
    return states


def tensors(state: State) -> dict[str, torch.Tensor]:
    """All tensors of a state."""
    return {**state.params, **state.moments, **state.buffers}


def off(one: dp.Drift, other: dp.Drift) -> float:
    """The largest relative difference of a gradient, on the CPU."""
    assert one.grads.keys() == other.grads.keys()
    pairs = [(a.cpu(), other.grads[name].cpu()) for name, a in one.grads.items()]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)
