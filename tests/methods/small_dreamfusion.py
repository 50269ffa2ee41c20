"""DreamFusion on a small model and small pictures, and states of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.scenes.config import EncodingConfig, GeometryConfig, RendererConfig
from dreamprop.state import State


def make(
    folder: Path,
    kind: str = "volume-grid",
    seed: int = 0,
    data: dict[str, Any] | None = None,
    guidance: dict[str, Any] | None = None,
    **system: Any,
) -> DreamFusion:
    """A process that is quick.

    Args:
        folder: of the guidance's model.
        kind: of the geometry.
        seed: of the draws.
        data: settings of the data that are other than two pictures of 8 x 8.
        guidance: settings of the guidance that are other than its defaults.
        system: settings of the system that are other than its defaults.
    """
    system.setdefault(
        "geometry", GeometryConfig(resolution=8, pos_encoding_config=EncodingConfig(n_levels=2))
    )
    config = SystemConfig(
        geometry_type=kind,
        renderer=RendererConfig(num_samples_per_ray=12, eval_num_samples_per_ray=16),
        prompt_processor=PromptConfig(prompt="a red torus"),
        guidance=GuidanceConfig(pretrained_model_name_or_path=str(folder), **(guidance or {})),
        **system,
    )
    data = {"batch_size": 2, "width": 8, "height": 8, **(data or {})}
    return DreamFusion(DataConfig(**data), config, seed=seed, max_steps=100)


def walk(process: DreamFusion, steps: int) -> list[State]:
    """The first states of the sequential run."""
    states = [process.init()]
    for _ in range(steps - 1):
        states.append(process.update(states[-1], process.drift(states[-1])))
    return states
