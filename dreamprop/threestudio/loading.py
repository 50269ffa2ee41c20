"""From a YAML file to a system and its data, the way threestudio's own launch goes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dreamprop.threestudio.precision import StepSettings
from dreamprop.threestudio.system import Threestudio, optimizers
from dreamprop.threestudio.trainer_proxy import TrainerProxy

OWN = "parallel"
"""The block of a config that is ours; threestudio never sees it."""

REFUSED = {
    "control4d-multiview-system": "it steps two optimisers inside training_step, against each other",
    "instructnerf2nerf-system": "it edits its training images inside training_step, so that a step depends on "
    "which steps were evaluated before it",
}
"""Systems of threestudio that are no chain of pure steps, and why."""


@dataclass(frozen=True)
class Config:
    """A config in two parts: threestudio's as threestudio reads it, and the block ``parallel``."""

    studio: Any
    """What threestudio's ``load_config`` made of its part."""
    parallel: DictConfig
    """The block ``parallel``, unchecked."""


def read(path: Path | str, arguments: Sequence[str] = (), n_gpus: int = 1) -> Config:
    """Read a config as threestudio's launch does, without our block.

    Args:
        path: a YAML file.
        arguments: dot-list overrides; those of ``parallel.`` are ours.
        n_gpus: processes of the run; threestudio leaves out the time stamp where there are several.
    """
    load_config = importlib.import_module("threestudio.utils.config").load_config
    mine = [a for a in arguments if a.startswith(f"{OWN}.")]
    theirs = [a for a in arguments if not a.startswith(f"{OWN}.")]
    tree = OmegaConf.load(path)
    parallel: Any = OmegaConf.create()
    if isinstance(tree, DictConfig) and OWN in tree:
        parallel = tree.pop(OWN)
        studio = load_config(OmegaConf.to_yaml(tree), cli_args=theirs, from_string=True, n_gpus=n_gpus)
    else:
        studio = load_config(str(path), cli_args=theirs, n_gpus=n_gpus)
    if mine:
        parallel = OmegaConf.merge(parallel, OmegaConf.from_dotlist(mine)[OWN])
    return Config(studio, parallel)


def extensions(folder: Path) -> list[str]:
    """Import the extensions in ``custom/`` as threestudio's launch does: files and packages, by their path.

    One that fails is told and passed over.

    Args:
        folder: ``custom`` of the working directory.

    Returns:
        Those that were imported.
    """
    found: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name == "__pycache__" or path.name.endswith("_disabled"):
            continue
        if path.is_file() and path.suffix != ".py":
            continue
        # threestudio names a file by its path without the suffix, and a package by its folder
        name = str(path.with_suffix("")) if path.is_file() else path.name
        source = path if path.is_file() else path / "__init__.py"
        try:
            spec = importlib.util.spec_from_file_location(name, source)
            if spec is None or spec.loader is None:
                raise ImportError(f"{source} is no Python module")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            found.append(name)
        except Exception:
            traceback.print_exc()
            print(f"extension {path} could not be imported", file=sys.stderr)
    return found


def make(studio: Any) -> tuple[Any, Any]:
    """The data module and the system of a config, with their weights drawn from its seed.

    Raises:
        ValueError: the system is known not to be a chain of pure steps.
    """
    reason = refusal(studio)
    if reason:
        raise ValueError(reason)
    threestudio: Any = importlib.import_module("threestudio")
    seed_everything = importlib.import_module("pytorch_lightning").seed_everything
    # threestudio adds its rank, for data in parallel; here every process has the same system
    seed_everything(studio.seed, workers=True)
    data = threestudio.find(studio.data_type)(studio.data)
    system = threestudio.find(studio.system_type)(studio.system, resumed=studio.resume is not None)
    system.set_save_dir(str(Path(studio.trial_dir) / "save"))
    return data, system


def refusal(studio: Any) -> str | None:
    """Why a config cannot be run as a chain of pure steps, where that is known from the config alone."""
    reason = REFUSED.get(str(studio.system_type))
    if reason:
        return f"system_type {studio.system_type} cannot be run in parallel: {reason}; run it in threestudio"
    for where in ("renderer", "renderer.base_renderer"):
        if OmegaConf.select(studio, f"system.{where}.estimator", default=None) == "proposal":
            return (
                f"system.{where}.estimator must not be proposal: its network is trained inside the step, and "
                "counts steps where nobody can put it back; use occgrid or importance"
            )
    return None


def process(
    studio: Any,
    device: torch.device | str = "cpu",
    settings: StepSettings | None = None,
    seed: int | None = None,
) -> Threestudio:
    """The process of a config, in the order in which Lightning's ``Trainer.fit`` makes things.

    Args:
        studio: threestudio's config.
        device: where the system was told to be.
        settings: what the trainer's settings ask of a step.
        seed: of the draws; the config's by default.
    """
    data, system = make(studio)
    data.prepare_data()
    data.setup("fit")
    system.to(device)
    system.train()
    made = optimizers(system)
    loader = data.train_dataloader()
    view = TrainerProxy(loader, data)
    system.trainer = view
    system.on_fit_start()
    return Threestudio(
        system,
        loader,
        seed=studio.seed if seed is None else seed,
        settings=settings,
        made=made,
        datamodule=data,
    )
