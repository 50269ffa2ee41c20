"""The trainer that threestudio's launch makes."""

import importlib
import os
from pathlib import Path
from typing import Any

import torch


def make_trainer(
    path: Path, studio: Any, device: torch.device, system: Any, *, training: bool, lead: bool
) -> Any:
    """A Lightning trainer with threestudio's callbacks and loggers, on one device.

    Args:
        path: of the config.
        studio: threestudio's config; what is written goes into its trial folder.
        device: where.
        system: brings loggers of its own.
        training: whether it is to train.
        lead: whether this process is the one that writes, validates and saves.
    """
    lightning: Any = importlib.import_module("pytorch_lightning")
    callbacks: list[Any] = []
    loggers: list[Any] = []
    options = dict(studio.trainer)
    if training and lead:
        own: Any = importlib.import_module("threestudio.utils.callbacks")
        place = str(studio.trial_dir)
        callbacks = [
            lightning.callbacks.ModelCheckpoint(dirpath=os.path.join(place, "ckpts"), **studio.checkpoint),
            own.CodeSnapshotCallback(os.path.join(place, "code"), use_version=False),
            own.ConfigSnapshotCallback(str(path), studio, os.path.join(place, "configs"), use_version=False),
        ]
        loggers = [lightning.loggers.CSVLogger(place, name="csv_logs"), *system.get_loggers()]
        if _has("tensorboard"):
            os.makedirs(os.path.join(place, "tb_logs"), exist_ok=True)
            loggers.insert(0, lightning.loggers.TensorBoardLogger(place, name="tb_logs"))
    if training:
        options["enable_progress_bar"] = False  # the bar is of rounds
    if not lead:
        options |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    cuda = device.type == "cuda"
    return lightning.Trainer(
        callbacks=callbacks,
        logger=loggers or False,
        inference_mode=False,
        accelerator="gpu" if cuda else "cpu",
        devices=[device.index or 0] if cuda else 1,
        **options,
    )


def _has(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
