"""A real checkout of threestudio for the tests: where it is, and configs small enough for a CPU.

Set THREESTUDIO_ROOT to the checkout. Nothing is written into it: the working directory is a scratch folder that
shows its `load` folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = os.environ.get("THREESTUDIO_ROOT", "")
needs_checkout = pytest.mark.skipif(
    not ROOT, reason="THREESTUDIO_ROOT is not set to a checkout of threestudio"
)

GRID = "system.geometry.pos_encoding_config"


def enter(folder: Path) -> None:
    """Work in a scratch folder with upstream importable; the models `sd` and `sd2` are made there."""
    from dreamprop.threestudio.compat import install

    from . import tiny_sd

    install(ROOT, "cpu")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    os.chdir(folder)
    (folder / "load").symlink_to(Path(ROOT) / "load")
    tiny_sd.save(folder / "sd")
    tiny_sd.save(folder / "sd2", seed=1)


def overrides(folder: Path, size: int = 16) -> list[str]:
    """What makes any config of upstream small."""
    sd = folder / "sd"
    return [
        "use_timestamp=false",
        f"exp_root_dir={folder / 'outputs'}",
        "system.prompt_processor.prompt=a red torus",
        f"system.prompt_processor.pretrained_model_name_or_path={sd}",
        f"system.guidance.pretrained_model_name_or_path={sd}",
        "system.guidance.half_precision_weights=false",
        "system.renderer.num_samples_per_ray=8",
        f"{GRID}.n_levels=3",
        f"{GRID}.log2_hashmap_size=10",
        f"data.width={size}",
        f"data.height={size}",
        "trainer.precision=32",
    ]


SMALL = {
    # a band of the grid that opens, and a resolution that changes, inside the run
    "dreamfusion-sd": [f"{GRID}.start_level=1", f"{GRID}.start_step=5", f"{GRID}.update_steps=6"],
    "prolificdreamer": [
        "data.width=[8,16]",
        "data.height=[8,16]",
        "data.resolution_milestones=[6]",
        "system.guidance.pretrained_model_name_or_path_lora=sd2",
    ],
}
"""What the configs need besides."""


def studio(name: str, folder: Path, *more: str) -> Any:
    """threestudio's config of a name, small."""
    from dreamprop.threestudio import build

    arguments = [*overrides(folder), *SMALL.get(name, []), *more]
    return build.read(Path(ROOT) / "configs" / f"{name}.yaml", arguments).studio
