"""A frozen text-to-image diffusion model from a folder in diffusers' layout, or from the hub by name.

Legend: N pictures, C channels of what the U-Net sees, L tokens, D features of a token.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from safetensors import SafetensorError
from torch import Tensor, nn

from dreamprop.config.validate import shortened
from dreamprop.errors import InputError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True)
class Model:
    """The parts of a diffusion model, without gradients and in evaluation mode."""

    unet: Any
    text_encoder: Any
    """None once the prompts are embedded, see `without_text_encoder`."""
    tokenizer: Any
    vae: Any
    """None for a model of pixels."""
    alphas_cumprod: Tensor
    """[T] cumulative products of alpha (abar) by timestep, float32"""
    prediction: str
    """What the U-Net predicts: one of PREDICTIONS."""
    device: torch.device
    dtype: torch.dtype

    @property
    def channels(self) -> int:
        """C"""
        return int(self.unet.config.in_channels)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels to an element of what the U-Net sees."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 1

    @property
    def resolution(self) -> int:
        """Pixels along a side of the pictures that the model was trained on."""
        size = self.unet.config.sample_size
        return int(size[0] if isinstance(size, Sequence) else size) * self.vae_scale_factor

    def without_text_encoder(self) -> Model:
        """The same model, unable to embed: the memory of the text encoder is free from now on.

        A T5-XXL encoder takes 9 GB in half precision on every rank, and prompts are embedded once.
        """
        self.text_encoder.to("meta")  # frees the weights whoever else holds the module
        return replace(self, text_encoder=None)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [len(prompts), L, D]."""
        length = min(int(self.tokenizer.model_max_length), 77)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        # as the pipelines have it: T5 is told where the padding is, CLIP only where its settings ask for it
        masked = self.text_encoder.config.model_type == "t5" or getattr(
            self.text_encoder.config, "use_attention_mask", False
        )
        mask = tokens.attention_mask.to(self.device) if masked else None
        found: Tensor = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        return found.to(self.dtype)

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """What the U-Net sees of pictures [N, 3, H, V] in [0, 1], differentiably.

        Args:
            images: in [0, 1].
            noise: [N, C, h, w] standard normal, to sample the latent posterior; None takes its mode.

        Returns:
            [N, C, h, w]
        """
        images = images * 2 - 1
        if self.vae is None:
            return images
        posterior = self.vae.encode(images.to(self.dtype)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(self.dtype)
        latents = latents.float() - (getattr(self.vae.config, "shift_factor", None) or 0.0)
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """What the U-Net predicts [N, C, h, w] (float32), learned variances dropped."""
        noisy = noisy.to(self.dtype)
        if self.device.type == "cpu":
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        out = self.unet(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]
        return out[:, : self.channels].float()


def load(
    path: str | os.PathLike[str], device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Model:
    """Load a model: subfolders `unet`, `scheduler`, `text_encoder`, `tokenizer` and, for a latent one, `vae`.

    Only safetensors files are read, nothing is unpickled. A folder is never looked up on the hub.

    Raises:
        InputError: there is no such model, or it is damaged or of an unknown kind.
    """
    name = os.fspath(path)
    local = is_folder(name)
    with refusing(name):
        index = index_of(name, local)
        options: dict[str, Any] = {"local_files_only": local}
        weights = options | {"torch_dtype": dtype, "use_safetensors": True}
        unet = _class(index, "unet").from_pretrained(name, subfolder="unet", **weights)
        text = options | {"dtype": dtype, "use_safetensors": True}
        text_encoder = _class(index, "text_encoder").from_pretrained(name, subfolder="text_encoder", **text)
        tokenizer = _class(index, "tokenizer").from_pretrained(name, subfolder="tokenizer", **options)
        scheduler = DDPMScheduler.from_pretrained(name, subfolder="scheduler", **options)
        vae = None
        if has_vae(index):
            vae = _class(index, "vae").from_pretrained(name, subfolder="vae", **weights)
    prediction = str(scheduler.config.prediction_type)
    if prediction not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise InputError(
            f"prediction_type of {shortened(name, 80)} must be one of {known}, got {prediction!r}; take another model"
        )
    device = torch.device(device)
    for module in (unet, text_encoder, vae):
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval().to(device=device)
    if device.type == "cpu":
        unet.to(memory_format=torch.channels_last)  # a fifth faster there, and no slow path for single images
    alphas_cumprod = scheduler.alphas_cumprod.to(device, torch.float32)
    return Model(unet, text_encoder, tokenizer, vae, alphas_cumprod, prediction, device, dtype)


def is_folder(name: str) -> bool:
    """Whether a model is a folder here, and not a name on the hub.

    Raises:
        InputError: it can only be a folder, and is none of a model.
    """
    # os.path answers False for names that the system refuses
    local = os.path.exists(name) or os.path.isabs(name) or name.startswith(".") or name.count("/") != 1
    if local and not os.path.isfile(os.path.join(name, "model_index.json")):
        raise InputError(
            f"model {shortened(name, 80)} must be a folder with a model_index.json, which is missing; "
            "give a folder saved by diffusers' save_pretrained, a name on the hub, or embedded"
        )
    return local


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """A block that loads a model; what the libraries say against it becomes an `InputError` of one line."""
    try:
        yield
    except (OSError, LookupError, AttributeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"model {shortened(name, 80)} cannot be loaded: {shortened(first, 120)}; give a whole folder, or embedded"
        ) from error


def index_of(name: str, local: bool) -> dict[str, Any]:
    """The table of the components of a model, by name, each as [library, class]."""
    if local:
        index = json.loads((Path(name) / "model_index.json").read_text())
    else:
        from diffusers import DiffusionPipeline

        index = DiffusionPipeline.load_config(name)
    if not isinstance(index, dict):
        raise KeyError("model_index.json is not a table of components")
    return index


def has_vae(index: dict[str, Any]) -> bool:
    """Whether a model is one of latents."""
    return bool((index.get("vae") or [None])[0])


def _class(index: dict[str, Any], component: str) -> Any:
    library, name = index[component]
    if library not in LIBRARIES:
        raise KeyError(
            f"component {component} comes from {library!r}, which is not one of {', '.join(LIBRARIES)}"
        )
    return getattr(importlib.import_module(library), name)
