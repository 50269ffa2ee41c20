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
from omegaconf import OmegaConf

from dreamprop.threestudio import tiny_sd

ROOT = os.environ.get("THREESTUDIO_ROOT", "")
needs_checkout = pytest.mark.skipif(
    not ROOT, reason="THREESTUDIO_ROOT is not set to a checkout of threestudio"
)

GRID = "system.geometry.pos_encoding_config"


def enter(folder: Path) -> None:
    """Work in a scratch folder with upstream importable; the models `sd` and `sd2` are made there."""
    from dreamprop.threestudio.compat import install

    install(ROOT, "cpu")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    os.chdir(folder)
    (folder / "load").symlink_to(Path(ROOT) / "load")
    tiny_sd.save(folder / "sd")
    tiny_sd.save(folder / "sd2", seed=1)


VSD = [
    "data.width=8",
    "data.height=8",
    "data.batch_size=1",
    "data.resolution_milestones=[]",
    "system.guidance.pretrained_model_name_or_path_lora=sd2",
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
    "sjc": ["system.geometry.grid_size=[16,16,16]", f"~{GRID}"],
    "latentnerf": [
        f"{GRID}.otype=HashGrid",
        f"{GRID}.n_features_per_level=2",
        f"{GRID}.base_resolution=4",
        f"{GRID}.per_level_scale=2",
    ],
    "control4d-static": ["data.dataroot=none"],
    "instructnerf2nerf": ["data.dataroot=none"],
    "sdi": ["system.guidance.inversion_n_steps=2", f"{GRID}.start_level=2"],
    "textmesh-if": [
        "system.prompt_processor_type=stable-diffusion-prompt-processor",
        "system.guidance_type=stable-diffusion-guidance",
        f"{GRID}.start_level=1",
    ],
    "dreamfusion-sd-eff": ["data.sample_width=8", "data.sample_height=8", f"{GRID}.start_level=1"],
    "prolificdreamer-hifa": VSD,
    "prolificdreamer-scene": VSD,
    "prolificdreamer-patch": [
        *VSD,
        "system.renderer.base_renderer.num_samples_per_ray=8",
        "~system.renderer.num_samples_per_ray",
        "system.renderer.patch_size=4",
        "system.renderer.global_downsample=2",
    ],
    "zero123": [
        "system.guidance_type=toy-guidance",
        "~system.guidance",
        "data.image_path=ball_rgba.png",
        "data.height=16",
        "data.width=16",
        "data.random_camera.height=[8,16]",
        "data.random_camera.width=[8,16]",
        "data.random_camera.batch_size=[2,1]",
        "data.random_camera.resolution_milestones=[3]",
        "data.resolution_milestones=[]",
        "system.prompt_processor.pretrained_model_name_or_path=",
        "system.prompt_processor.prompt=",
    ],
}
"""What the configs need besides; `~key` drops a key of the file."""


def studio(name: str, folder: Path, *more: str) -> Any:
    """threestudio's config of a name, small."""
    from dreamprop.threestudio import loading

    return loading.read(*reduced(name, folder, *more)).studio


def reduced(name: str, folder: Path, *more: str) -> tuple[Path, list[str]]:
    """A config file of a name, without what is dropped, and the overrides that make it small."""
    arguments = [*tiny_sd.overrides(folder), *SMALL.get(name, []), *more]
    tree = OmegaConf.load(Path(ROOT) / "configs" / f"{name}.yaml")
    for key in [a[1:] for a in arguments if a.startswith("~")]:
        above, _, last = key.rpartition(".")
        if OmegaConf.select(tree, key) is not None:
            del OmegaConf.select(tree, above)[last]
        arguments = [a for a in arguments if a[1:] != key and not a.startswith((f"{key}=", f"{key}."))]
    OmegaConf.save(tree, folder / f"{name}.yaml")
    return folder / f"{name}.yaml", arguments


def toy_guidance() -> None:
    """Register a guidance of a few lines in the place of zero123's weights: pull the picture towards noisy grey."""
    import threestudio
    import torch
    from threestudio.utils.base import BaseObject

    if "toy-guidance" in threestudio.__modules__:
        return

    @threestudio.register("toy-guidance")
    class Toy(BaseObject):
        def __call__(self, rgb: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            target = (0.5 + 0.1 * torch.randn_like(rgb)).detach()
            return {"loss_sds": ((rgb - target) ** 2).sum() / len(rgb)}


def picture(folder: Path) -> Path:
    """A picture with a background, for systems that start from one."""
    import imageio.v3 as imageio
    import numpy as np

    y, x = np.mgrid[:64, :64]
    inside = (x - 32) ** 2 + (y - 32) ** 2 < 400
    rgba = np.stack([4 * x, 4 * y, 128 + 0 * x, 255 * inside], -1).astype(np.uint8)
    imageio.imwrite(folder / "ball_rgba.png", rgba)
    return folder / "ball_rgba.png"
