"""The embedded text-to-image diffusion models, the procedural world they learned, and the judge they never saw."""

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"

PIXEL = _WEIGHTS / "pixel"
"""The model of 32-pixel pictures in diffusers' layout: unet, scheduler, text_encoder, tokenizer, model_index.json."""

STABLE_DIFFUSION = _WEIGHTS / "stable-diffusion"
"""The model of latents in Stable Diffusion's layout: the same and vae."""

LARGE_VAE = _WEIGHTS / "stable-diffusion-512" / "vae"
"""The autoencoder that takes pictures of 512 pixels to the latents of that model, see `large_model`."""

MODELS = {"embedded": STABLE_DIFFUSION, "embedded-pixel": PIXEL}
"""The shipped models by the names that `pretrained_model_name_or_path` takes."""

JUDGE = _WEIGHTS / "judge"
"""The shipped judge: model.safetensors and config.json."""
