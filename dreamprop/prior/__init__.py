"""The embedded text-to-image diffusion model, the procedural world it was trained on, and the judge it never saw."""

from pathlib import Path

FOLDER = Path(__file__).parent / "weights" / "model"
"""The shipped model in diffusers' layout: unet/, scheduler/, text_encoder/, tokenizer/, model_index.json."""

JUDGE = Path(__file__).parent / "weights" / "judge"
"""The shipped judge: model.safetensors and config.json."""
