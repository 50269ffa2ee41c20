"""DreamGaussian on a small model and small pictures: a run in which all that may become of Gaussians does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.methods.config import DataConfig, DreamGaussianConfig, LossConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.scenes.config import RANDOM_COLOR, GeometryConfig
from dreamprop.scenes.gaussians.config import GaussiansConfig

STEPS = 14
"""Steps of a run: Gaussians are cloned, split and pruned on the way into 4 and 8, lowered into 6 and 12, and seen at
more pixels from 5 on."""


def make(
    folder: Path | str, seed: int = 0, data: dict[str, Any] | None = None, loss: str = "sds", **gaussians: Any
) -> DreamFusion:
    """A process that is quick.

    Args:
        folder: of the guidance's model.
        seed: of the draws.
        data: settings of the data that are other than two pictures of 8 x 8, then of 12 x 12 pixels.
        loss: of the guidance.
        gaussians: settings of the Gaussians that are other than these.
    """
    some = {
        "num_points": 40, "densification_interval": 4, "densify_from": 4, "densify_until": 8,
        "densify_grad_threshold": 0.06, "split_scale": 0.12, "min_opacity": 0.09, "max_points": 70,
        "opacity_reset_interval": 6, "opacity_reset": 0.095, "sh_degree": 1,
    }  # fmt: skip
    config = DreamGaussianConfig(
        geometry=GeometryConfig(gaussians=GaussiansConfig(**{**some, **gaussians})),
        background_type=RANDOM_COLOR,
        prompt_processor=PromptConfig(prompt="a red torus", overhead_threshold=38.0),
        loss=LossConfig(lambda_sparsity=1.0),
        guidance=GuidanceConfig(pretrained_model_name_or_path=str(folder), loss=loss),
    )
    small: dict[str, Any] = {
        "batch_size": 2, "width": [8, 12], "height": [8, 12], "resolution_milestones": [5],
        "elevation_range": [-10.0, 50.0],
    }  # fmt: skip
    return DreamFusion(DataConfig(**{**small, **(data or {})}), config, seed=seed, max_steps=STEPS)
