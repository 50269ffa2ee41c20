"""The name of the embedded model in threestudio's configs: replaced by the folder of its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamprop import prior
from dreamprop.config.loader import InputError
from dreamprop.prior.large_model import large_model
from dreamprop.threestudio.hub import KEY

NAME = "embedded"
"""Stands for the model of 512-pixel pictures, which is what Stable Diffusion's guidances of threestudio show it."""


def resolve(studio: Any, folder: Callable[[], Path] = large_model) -> None:
    """Replace `embedded` wherever a config names a pretrained model, before threestudio sees it.

    Args:
        studio: threestudio's config, which is changed.
        folder: where the model is; asked only where it is named.

    Raises:
        InputError: the model cannot be used there, or put together.
    """
    for part in [str(key) for key in studio.system]:
        given = studio.system[part]
        if not hasattr(given, "items"):
            continue
        for key in [str(name) for name, value in given.items() if _names_it(name, value)]:
            where, kind = f"system.{part}.{key}", str(studio.system.get(f"{part}_type", ""))
            if given[key] != NAME:
                raise InputError(
                    f"{where} must be {NAME} for the embedded model, whose pictures have 512 pixels here, "
                    f"got {given[key]}; write {NAME}"
                )
            if "stable-diffusion" not in kind:
                raise InputError(
                    f"system.{part}_type must be one for Stable Diffusion where {where} is {NAME}, got {kind}; "
                    f"use another, such as stable-diffusion-{part.replace('_', '-')}"
                )
            given[key] = str(folder())


def _names_it(key: Any, value: Any) -> bool:
    """Whether a key of a config names an embedded model."""
    return str(key).startswith(KEY) and value in prior.MODELS
