"""Lightning's checkpoints, as threestudio reads and writes them.

Their format is a pickle. It is only ever read with PyTorch's restricted unpickler, which makes tensors, numbers
and containers and calls nothing. threestudio hands OmegaConf's lists to optimisers and schedulers, which keep
them, and with them the whole config; such a file is refused by plain threestudio, too, since PyTorch 2.6. Ours
are written with Python's own lists, so that both can go on from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import Container, OmegaConf


def status(path: Path | str) -> tuple[int, int]:
    """Epoch and step of a checkpoint, which Lightning does not restore outside ``fit``."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    return int(saved["epoch"]), int(saved["global_step"])


def plain(value: Any) -> Any:
    """A value with Python's own lists and dictionaries in the place of OmegaConf's."""
    if isinstance(value, Container):
        return plain(OmegaConf.to_container(value, resolve=True))
    if type(value) is dict:
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(inner) for inner in value)
    return value
