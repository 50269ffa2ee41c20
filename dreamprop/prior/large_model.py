"""The latent model for pictures of 512 pixels: a folder that is put together from what is shipped when asked for.

Text encoder, tokenizer, scheduler and U-Net are those of the model for 64-pixel pictures and are shipped once. The
U-Net's embedding of the timestep is widened with zeros, which changes nothing that it says: threestudio's variational
score distillation adds an embedding of the camera that is 1280 wide.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dreamprop.config.loader import InputError
from dreamprop.prior import LARGE_VAE, STABLE_DIFFUSION

TIME_WIDTH = 1280
"""Of the embedding of a timestep in Stable Diffusion, which others count on."""
LAYOUT = 1
"""Counts how folders are put together; another number is another folder."""


def large_model(cache: Path | None = None, small: Path = STABLE_DIFFUSION, vae: Path = LARGE_VAE) -> Path:
    """The folder of a `StableDiffusionPipeline` whose autoencoder takes pictures of 512 pixels.

    It is named after its content, and written whole or not at all where it is not there yet.

    Args:
        cache: where such folders are kept; `dreamprop` in XDG_CACHE_HOME or in ~/.cache by default.
        small: the model for 64-pixel pictures.
        vae: the autoencoder for 512-pixel ones.

    Raises:
        InputError: the folder cannot be written.
    """
    place = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dreamprop"
    folder = place / f"stable-diffusion-512-{_digest(small, vae)}"
    if folder.is_dir():
        return folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".partial-{folder.name}-", dir=place))
        try:
            _write(beside, small, vae)
            beside.chmod(0o755)
            os.replace(beside, folder)
        except OSError:
            if not folder.is_dir():  # where it is, another process was faster
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write {folder}, the embedded model: {reason}; set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return folder


def _digest(*folders: Path) -> str:
    """What the files of folders come to, and how they are put together."""
    found = hashlib.sha256(str(LAYOUT).encode())
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            found.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def _write(folder: Path, small: Path, vae: Path) -> None:
    """Write everything into a folder."""
    for part in ("text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(small / part, folder / part)
    shutil.copytree(vae, folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(small / "unet")
    widened(unet).half().save_pretrained(folder / "unet", safe_serialization=True)
    index = json.loads((small / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AsymmetricAutoencoderKL"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def widened(unet: UNet2DConditionModel, width: int = TIME_WIDTH) -> UNet2DConditionModel:
    """The same U-Net with a wider embedding of the timestep, the rest of which is zero and unheard.

    Args:
        unet: the U-Net.
        width: features of the embedding.
    """
    made: UNet2DConditionModel = UNet2DConditionModel.from_config(
        {**unet.config, "time_embedding_dim": width}
    )
    theirs: dict[str, Tensor] = unet.state_dict()
    for name, mine in made.state_dict().items():
        mine.zero_()
        mine[tuple(slice(n) for n in theirs[name].shape)] = theirs[name]
    return made.eval()
