"""Runs that make pictures: the shipped config, made small."""

from collections.abc import Callable

from tests.cli.shipped import REPOSITORY

CONFIG = ["--config", str(REPOSITORY / "configs" / "sample.yaml")]
PROMPT = "a red torus"
STEPS, IMAGES = 8, 3
SMALL = [
    *CONFIG, f"system.prompt_processor.prompt={PROMPT}", "device=cpu",
    f"system.sampler.num_inference_steps={STEPS}", f"system.sampler.num_images_per_prompt={IMAGES}",
]  # fmt: skip
Sample = Callable[..., int]
"""The fixture `sample`."""
