"""`embedded` in threestudio's configs becomes the folder of the weights, and is told where it cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from dreamprop.config.loader import InputError
from dreamprop.runs.threestudio.embedded import resolve

from . import upstream
from .test_launch import launch, small

KEY = "pretrained_model_name_or_path"


def studio(kind: str = "stable-diffusion-vsd-guidance", **guidance: str) -> Any:
    parts = {
        "prompt_processor_type": "stable-diffusion-prompt-processor",
        "prompt_processor": {KEY: "embedded", "prompt": "embedded"},
        "guidance_type": kind,
        "guidance": guidance,
        "loss": {"lambda_sds": 1.0},
    }
    return SimpleNamespace(system=OmegaConf.create(parts))


def test_every_name_of_a_model_becomes_the_folder() -> None:
    config = studio(**{KEY: "embedded", f"{KEY}_lora": "embedded"})
    resolve(config, lambda: Path("/weights"))
    assert config.system.prompt_processor == {KEY: "/weights", "prompt": "embedded"}
    assert config.system.guidance == {KEY: "/weights", f"{KEY}_lora": "/weights"}


def test_other_models_are_left_alone_and_nothing_is_put_together() -> None:
    config = studio(**{KEY: "stabilityai/stable-diffusion-2-1-base"})
    config.system.prompt_processor[KEY] = "here/embedded"

    def never() -> Path:
        raise AssertionError

    resolve(config, never)
    assert config.system.guidance[KEY] == "stabilityai/stable-diffusion-2-1-base"


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (
            "deep-floyd-guidance",
            "embedded",
            r"system.guidance_type must be one for Stable Diffusion .* got deep-floyd",
        ),
        (
            "stable-diffusion-guidance",
            "embedded-pixel",
            r"must be embedded .* got embedded-pixel; write embedded",
        ),
    ],
)
def test_where_it_cannot_be_used_is_told_in_one_line(kind: str, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        resolve(studio(kind, **{KEY: name}), lambda: Path("/weights"))
    assert "\n" not in str(error.value)


@upstream.needs_checkout
def test_a_config_runs_on_it_from_the_command_line(tmp_path: Path, folder: Path) -> None:
    names = [f"system.{part}.{KEY}=embedded" for part in ("prompt_processor", "guidance")]
    arguments = ["--train", "trainer.max_steps=1", "data.n_test_views=1", *names]
    done = launch(tmp_path, *small(tmp_path, *arguments), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    (made,) = (tmp_path / "cache" / "dreamprop").iterdir()
    (kept,) = tmp_path.rglob("configs/parsed.yaml")
    assert OmegaConf.load(kept).system.guidance[KEY] == str(made)
