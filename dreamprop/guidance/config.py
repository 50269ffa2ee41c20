"""The blocks of a config that describe prompt and guidance, under threestudio's key names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreamprop.config.schedule_checks import check_name, check_order, check_schedule
from dreamprop.config.validate import number
from dreamprop.guidance.weighting import WEIGHTINGS

GUIDANCES = ("sds-guidance",)


@dataclass(frozen=True)
class PromptConfig:
    """What is asked for, and the words for the side that a camera sees; angles in degrees."""

    prompt: str = ""
    negative_prompt: str = ""
    front_threshold: float = 45.0
    """Azimuths within this of the front are the front."""
    back_threshold: float = 45.0
    """Azimuths within this of the back are the back."""
    overhead_threshold: float = 38.0
    """Elevations above this are overhead; 38 is what `embedded` was told, 60 is threestudio's and `embedded-sd`'s."""
    view_dependent_prompting: bool = True
    """Whether the side is put into words."""

    def __post_init__(self) -> None:
        for name, high in (("front_threshold", 180), ("back_threshold", 180), ("overhead_threshold", 90)):
            number(f"system.prompt_processor.{name}", getattr(self, name), 0, high, remedy="use 45")


@dataclass(frozen=True)
class GuidanceConfig:
    """Score distillation."""

    pretrained_model_name_or_path: str = "embedded"
    """`embedded` (of 32-pixel pictures), `embedded-sd` (of latents of 64-pixel pictures), a folder in diffusers'
    layout, or a name on the hub."""
    guidance_scale: Any = 10.0
    """Of classifier-free guidance (a schedule)."""
    weighting_strategy: str = "sds"
    """`sds` (1 - abar), `uniform` (1) or `fantasia3d` (sqrt(abar) (1 - abar))."""
    min_step_percent: Any = 0.02
    """Lowest timestep as a share of the model's (a schedule)."""
    max_step_percent: Any = 0.98
    """Highest timestep as a share of the model's (a schedule)."""
    grad_clip: Any = None
    """Bound of every element of the gradient (a schedule); null: none."""
    half_precision_weights: bool = False
    """Whether the model runs in float16; for GPUs."""
    resolution: int = 0
    """Pixels along a side of what the model sees; 0: what it was trained on."""

    def __post_init__(self) -> None:
        key = "system.guidance"
        check_schedule(f"{key}.guidance_scale", self.guidance_scale, 0, 1e6)
        check_schedule(f"{key}.min_step_percent", self.min_step_percent, 0, 1)
        check_schedule(f"{key}.max_step_percent", self.max_step_percent, 0, 1)
        lowest, highest = self.min_step_percent, self.max_step_percent
        check_order(f"{key}.min_step_percent", lowest, f"{key}.max_step_percent", highest)
        if self.grad_clip is not None:
            check_schedule(f"{key}.grad_clip", self.grad_clip, 0)
        check_name(f"{key}.weighting_strategy", self.weighting_strategy, tuple(WEIGHTINGS))
        number(f"{key}.resolution", self.resolution, 0, 8192, whole=True, remedy="use 0 for the model's own")
