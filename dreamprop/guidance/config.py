"""The blocks of a config that describe prompt and guidance, under threestudio's key names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dreamprop.config.schedule_checks import check_name, check_order, check_schedule
from dreamprop.config.validate import number
from dreamprop.guidance.losses import LEARNING, LOSSES
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
    overhead_threshold: float = 60.0
    """Elevations above this are overhead: 60 for threestudio and for `embedded`; `embedded-pixel` was told 38."""
    view_dependent_prompting: bool = True
    """Whether the side is put into words."""

    def __post_init__(self) -> None:
        for name, high in (("front_threshold", 180), ("back_threshold", 180), ("overhead_threshold", 90)):
            number(f"system.prompt_processor.{name}", getattr(self, name), 0, high, remedy="use 45")


@dataclass(frozen=True)
class GuidanceConfig:
    """Score distillation."""

    pretrained_model_name_or_path: str = "embedded"
    """`embedded` (of latents of 64-pixel pictures), `embedded-pixel` (of 32-pixel pictures), a folder in diffusers'
    layout, or a name on the hub."""
    loss: str = "sds"
    """What is distilled by: `sds` (score distillation sampling), `vsd` (variational score distillation), `sjc` (score
    Jacobian chaining), `ism` (interval score matching) or `sdi` (score distillation via inversion)."""
    guidance_scale: Any = 10.0
    """Of classifier-free guidance (a schedule)."""
    weighting_strategy: str = "sds"
    """`sds` (1 - abar), `uniform` (1), `fantasia3d` (sqrt(abar) (1 - abar)) or `sigma` (sqrt((1 - abar) / abar))."""
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

    lora_rank: int = 4
    """With `vsd`: the rank of the corrections of the second U-Net."""
    sjc_variance_reduction: bool = True
    """With `sjc`: whether the noise that was added is taken off what the model finds, which changes no mean."""
    ism_delta_t: int = 50
    """With `ism`: the interval in timesteps."""
    ism_delta_s: int = 200
    """With `ism`: the longest hop of the inversion in timesteps; shorter ones are more exact and cost more calls."""
    sdi_inversion_steps: int = 10
    """With `sdi`: steps of the inversion, each of which asks the model as often as all of `sds`."""
    sdi_inversion_scale: float = -7.5
    """With `sdi`: the guidance scale of the inversion; below 0 it leads away from the prompt, and at 0 it is told
    nothing, at half the cost."""

    @property
    def loss_options(self) -> dict[str, Any]:
        """Keywords of the loss that was chosen: the fields that begin with its name."""
        prefix = f"{self.loss}_"
        return {
            f.name.removeprefix(prefix): getattr(self, f.name)
            for f in fields(self)
            if f.name.startswith(prefix)
        }

    def __post_init__(self) -> None:
        key = "system.guidance"
        check_name(f"{key}.loss", self.loss, (*LOSSES, *LEARNING))
        number(f"{key}.lora_rank", self.lora_rank, 1, 1024, whole=True, remedy="use 4")
        number(f"{key}.ism_delta_t", self.ism_delta_t, 1, 1e6, whole=True, unit="timesteps", remedy="use 50")
        number(f"{key}.ism_delta_s", self.ism_delta_s, 1, 1e6, whole=True, unit="timesteps", remedy="use 200")
        number(f"{key}.sdi_inversion_steps", self.sdi_inversion_steps, 1, 1000, whole=True, remedy="use 10")
        number(f"{key}.sdi_inversion_scale", self.sdi_inversion_scale, -1e6, 1e6, remedy="use -7.5")
        check_schedule(f"{key}.guidance_scale", self.guidance_scale, 0, 1e6)
        check_schedule(f"{key}.min_step_percent", self.min_step_percent, 0, 1)
        check_schedule(f"{key}.max_step_percent", self.max_step_percent, 0, 1)
        lowest, highest = self.min_step_percent, self.max_step_percent
        check_order(f"{key}.min_step_percent", lowest, f"{key}.max_step_percent", highest)
        if self.grad_clip is not None:
            check_schedule(f"{key}.grad_clip", self.grad_clip, 0)
        check_name(f"{key}.weighting_strategy", self.weighting_strategy, tuple(WEIGHTINGS))
        number(f"{key}.resolution", self.resolution, 0, 8192, whole=True, remedy="use 0 for the model's own")
