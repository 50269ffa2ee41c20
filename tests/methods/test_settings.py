"""DreamFusion's settings: what they say is what is used, and wrong ones are told in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.methods.config import DataConfig, LossConfig, OptimizerConfig, SystemConfig
from dreamprop.methods.dreamfusion import DreamFusion
from dreamprop.scenes.config import GeometryConfig, RendererConfig
from tests.methods.small_dreamfusion import make


def test_learning_rates_by_group(folder: Path) -> None:
    process = make(
        folder,
        optimizer=OptimizerConfig(
            args={"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-15},
            params={"geometry.density": {"lr": [0, 0.2, 0.1, 10]}},
        ),
    )
    assert {n: g.step for n, g in process.groups(5).items()} == {
        "geometry.density": pytest.approx(0.15), "geometry.color": 0.1,
    }  # fmt: skip
    assert set(make(folder, "implicit-volume").groups(0)) == {"geometry.encoding", "geometry.network"}
    start = process.init()
    moved = process.update(start, process.drift(start))
    step = (moved.params["geometry.density"] - start.params["geometry.density"]).abs().max()
    assert step.item() == pytest.approx(0.2, rel=1e-3)  # Adam's first step is the learning rate
    assert moved.step == 1 and process.predict(moved).step == 2


def test_what_only_the_parts_can_judge_is_told_in_one_line(folder: Path) -> None:
    for options, words in (
        ({"params": {"geometry.texture": {"lr": 1}}}, "must name groups of geometry.density, geometry.color"),
        ({"args": {"lr": 0.1, "momentum": 0.9}}, r"must hold options of Adam \(lr, .*\), got 'momentum'"),
        (
            {"params": {"geometry.density": {"speed": 1}}},
            r"must hold options of Adam \(lr, .*\), got 'speed'",
        ),
    ):
        with pytest.raises(ValueError, match=words) as told:
            make(folder, optimizer=OptimizerConfig(**options))
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="cuboid"):
        DreamFusion(
            DataConfig(), SystemConfig(prompt_processor=PromptConfig(prompt="a red cuboid")), max_steps=1
        )


@pytest.mark.parametrize(
    ("make_config", "words"),
    [
        (lambda: DataConfig(batch_size=0), "data.batch_size must be a whole number >= 1"),
        (
            lambda: DataConfig(width=[16, 32]),
            "data.width must have one value more than resolution_milestones",
        ),
        (lambda: DataConfig(resolution_milestones=[5, 5]), "must be rising steps"),
        (lambda: DataConfig(elevation_range=[10, 0]), r"must be \[low, high\]"),
        (lambda: GeometryConfig(density_activation="relu"), "must be one of softplus, exp"),
        (lambda: GeometryConfig(resolution=2), "must be a whole number >= 4"),
        (lambda: GuidanceConfig(weighting_strategy="none"), "must be one of sds, uniform, fantasia3d"),
        (
            lambda: GuidanceConfig(max_step_percent=1.5),
            "max_step_percent must be a finite number <= 1, got 1.5",
        ),
        (lambda: GuidanceConfig(guidance_scale=[1, 2]), r"guidance_scale must be a number or \[start_step"),
        (lambda: LossConfig(lambda_sds=-1.0), "lambda_sds must be a finite number >= 0"),
        (lambda: OptimizerConfig(name="Lion"), "must be one of SGD, Adam, AdamW, Adan"),
        (lambda: SystemConfig(geometry_type="mesh"), "must be one of volume-grid, implicit-volume"),
        (lambda: RendererConfig(prune_alpha=math.nan), "must be a finite number >= 0 and < 1, got nan"),
    ],
)
def test_settings_are_checked_where_they_are_made(make_config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        make_config()
    assert "\n" not in str(told.value) and ";" in str(told.value)
