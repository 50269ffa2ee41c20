"""A text-to-image pipeline by the name that a config gives its model, with the scheduler that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dreamprop.config.validate import shortened
from dreamprop.errors import InputError
from dreamprop.sampling.kinds import KINDS

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
"""The schedulers that a config can name: the class of diffusers, and what of its settings the name stands for."""


def load_pipeline(
    path: str | os.PathLike[str],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    scheduler: str | None = None,
) -> Any:
    """Load a pipeline of one of the `KINDS`, without gradients.

    Only safetensors files are read, nothing is unpickled. A folder is never looked up on the hub.

    Args:
        path: a folder in diffusers' layout, or a name on the hub.
        device: where it is to work.
        dtype: of its weights.
        scheduler: one of `SCHEDULERS`, with the model's own noise levels and kind of prediction; by default its own.

    Raises:
        InputError: there is no such model, or it is damaged or of another kind.
    """
    import diffusers

    from dreamprop.guidance.diffusion import has_vae, index_of, is_folder, refusing

    name = os.fspath(path)
    local = is_folder(name)
    with refusing(name), _without_bar():
        index = index_of(name, local)
        found = str(index.get("_class_name"))
        if found not in KINDS or not has_vae(index):
            what = found if found not in KINDS else "one of pixels"
            raise InputError(
                f"model {shortened(name, 80)} must be a {' or '.join(KINDS)}, got {shortened(what, 60)}; "
                "use embedded"
            )
        pipe = getattr(diffusers, found).from_pretrained(
            name, torch_dtype=dtype, use_safetensors=True, local_files_only=local
        )
    if scheduler is not None:
        made, fixed = SCHEDULERS[scheduler]
        pipe.scheduler = getattr(diffusers, made).from_config(pipe.scheduler.config, **fixed)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return pipe.to(torch.device(device))


@contextmanager
def _without_bar() -> Iterator[None]:
    """A block in which diffusers shows no bar of what it loads: it is over before there is one to see."""
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
