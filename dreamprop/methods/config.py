"""The blocks `data` and `system` of a config, under threestudio's key names.

A *schedule* is a number or `[start_step, start_value, end_value, end_step]` (linear in between, constant outside). A
*staged* value is one value, or a list of values of which the next one holds from each of the block's
`resolution_milestones` on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dreamprop.config.schedule_checks import (
    check_milestones,
    check_name,
    check_range,
    check_schedule,
    check_staged,
    refuse,
    staged,
)
from dreamprop.config.validate import number
from dreamprop.guidance.config import GUIDANCES, GuidanceConfig, PromptConfig
from dreamprop.optim import OPTIMIZERS
from dreamprop.optim.options import check_options
from dreamprop.scenes.config import (
    BACKGROUNDS,
    GAUSSIAN_SPLATTING,
    GEOMETRIES,
    RANDOM_GRADIENT,
    VOLUME_GRID,
    BackgroundConfig,
    GeometryConfig,
    MaterialConfig,
    RendererConfig,
)


@dataclass(frozen=True)
class DataConfig:
    """Pictures and cameras of a step: z up, azimuth 0 in front on +x, angles in degrees."""

    batch_size: Any = 2
    """Pictures a step (staged)."""
    width: Any = 64
    """Pixels across (staged)."""
    height: Any = 64
    """Pixels down (staged)."""
    resolution_milestones: list[int] = field(default_factory=list)
    """Steps at which `batch_size`, `width` and `height` take their next value."""
    elevation_range: list[float] = field(default_factory=lambda: [-20.0, 68.0])
    """Half of the cameras are uniform in the angle, half uniform on the sphere."""
    azimuth_range: list[float] = field(default_factory=lambda: [-180.0, 180.0])
    batch_uniform_azimuth: bool = True
    """Whether the pictures of a step look from evenly spread azimuths."""
    camera_distance_range: list[float] = field(default_factory=lambda: [2.2, 2.6])
    fovy_range: list[float] = field(default_factory=lambda: [44.0, 50.0])
    camera_perturb: float = 0.0
    """Half width of the uniform shift of a camera's place."""
    center_perturb: float = 0.0
    """Standard deviation of the point that is looked at."""
    up_perturb: float = 0.0
    """Standard deviation of the up vector."""
    light_distance_range: list[float] = field(default_factory=lambda: [0.8, 1.5])
    """Distance of the light from the origin."""
    light_position_perturb: float = 1.0
    """Standard deviation of the light's place before it is put at its distance."""

    def __post_init__(self) -> None:
        check_milestones("data.resolution_milestones", self.resolution_milestones)
        check_staged("data.batch_size", self.batch_size, self.resolution_milestones, 1, 4096)
        check_staged("data.width", self.width, self.resolution_milestones, 2, 8192)
        check_staged("data.height", self.height, self.resolution_milestones, 2, 8192)
        check_range("data.elevation_range", self.elevation_range, -90, 90)
        check_range("data.azimuth_range", self.azimuth_range, -360, 360)
        check_range("data.camera_distance_range", self.camera_distance_range, 0.01, 1e6)
        check_range("data.fovy_range", self.fovy_range, 1, 179)
        check_range("data.light_distance_range", self.light_distance_range, 0, 1e6)
        for name in ("camera_perturb", "center_perturb", "up_perturb", "light_position_perturb"):
            number(f"data.{name}", getattr(self, name), 0, 1e6, remedy="use 0 for none")

    def size(self, step: int) -> tuple[int, int, int]:
        """Batch size, height and width at a step."""
        at = self.resolution_milestones
        return staged(self.batch_size, at, step), staged(self.height, at, step), staged(self.width, at, step)


def check_shares(batch_size: Any, particles: int) -> None:
    """Refuse pictures of a step (staged) that the particles cannot share evenly.

    Raises:
        InputError: with the line that says so.
    """
    for count in batch_size if isinstance(batch_size, list) else [batch_size]:
        if count % particles:
            rule = f"be a multiple of system.num_particles ({particles})"
            refuse("data.batch_size", rule, count, f"use {-(-count // particles) * particles}")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (schedules)."""

    lambda_sds: Any = 1.0
    lambda_orient: Any = 0.0
    """Normals that face away from the camera where they are seen (arXiv:2209.14988, section 3.2)."""
    lambda_sparsity: Any = 200.0
    """Mean opacity. Score distillation is summed over pixels, so at 32 x 32 this is a fifth of a unit each; it keeps
    holes open, which are otherwise filled with density of the background's colour."""
    lambda_opaque: Any = 0.0
    """Opacity that is neither 0 nor 1."""
    lambda_tv: Any = 0.0
    """Squared differences between neighbours in a volume grid."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_schedule(f"system.loss.{entry.name}", getattr(self, entry.name), 0)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser."""

    name: str = "Adam"
    args: dict[str, Any] = field(default_factory=lambda: {"betas": [0.9, 0.99], "eps": 1e-15})
    """Its settings, null for those to leave out; `lr` may be a schedule and is by default 0.15 for a volume-grid, 0.01
    for an implicit-volume, and one for each group of a gaussian-splatting."""
    params: dict[str, Any] = field(default_factory=dict)
    """What differs by group, `{geometry.density: {lr: 0.05}}`: the groups are `geometry.density` and
    `geometry.color` of a volume-grid, `geometry.encoding` and `geometry.network` of an implicit-volume, and
    `geometry.xyz`, `.features_dc`, `.features_rest` (where `sh_degree` is above 0), `.opacity`, `.scaling` and
    `.rotation` of a gaussian-splatting; and `guidance.lora` and `guidance.camera` of the loss `vsd`, whose `lr` is by
    default 0.0001."""

    def __post_init__(self) -> None:
        check_name("system.optimizer.name", self.name, tuple(OPTIMIZERS))
        check_options("system.optimizer.args", self.name, self.args)


@dataclass(frozen=True)
class SystemConfig:
    """The method's parts."""

    num_particles: int = 1
    """Scenes that are distilled together, over which the pictures of a step are spread evenly (arXiv:2305.16213); what
    a run shows and exports is the first."""
    geometry_type: str = VOLUME_GRID
    """`volume-grid` (a voxel grid, fast on CPUs), `implicit-volume` (a hash grid and a small network) or
    `gaussian-splatting` (3D Gaussians)."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    material: MaterialConfig = field(default_factory=MaterialConfig)
    background_type: str = RANDOM_GRADIENT
    """Drawn anew for every picture: `random-gradient-background` (any colours, as `embedded` knows them) or
    `random-color-background` (soft tints, as `embedded-pixel` knows them); or `solid-color-background`."""
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    renderer: RendererConfig = field(default_factory=RendererConfig)
    prompt_processor: PromptConfig = field(default_factory=PromptConfig)
    guidance_type: str = GUIDANCES[0]
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        number("system.num_particles", self.num_particles, 1, 4096, whole=True, remedy="use 1")
        check_name("system.geometry_type", self.geometry_type, GEOMETRIES)
        check_name("system.background_type", self.background_type, BACKGROUNDS)
        check_name("system.guidance_type", self.guidance_type, GUIDANCES)
        if self.geometry_type == GAUSSIAN_SPLATTING:
            self._check_gaussians()

    def _check_gaussians(self) -> None:
        """See that nothing is asked of Gaussians that they have not: normals, and neighbours on a grid."""
        for name in ("lambda_orient", "lambda_tv"):
            value = getattr(self.loss, name)
            if any(value if isinstance(value, Sequence) else [value]):
                rule = f"be 0 with {GAUSSIAN_SPLATTING}, which has neither normals nor a grid"
                refuse(f"system.loss.{name}", rule, value, "use 0")
        default = MaterialConfig.ambient_only_steps
        if self.material.ambient_only_steps != default:
            rule = f"be {default} with {GAUSSIAN_SPLATTING}, which has no normals to be lit by"
            refuse("system.material.ambient_only_steps", rule, self.material.ambient_only_steps, "drop it")
        if self.num_particles > 1:
            rule = f"be 1 with {GAUSSIAN_SPLATTING}, whose particles would come to different sizes"
            refuse("system.num_particles", rule, self.num_particles, "use 1")


@dataclass(frozen=True)
class ProlificDreamerConfig(SystemConfig):
    """ProlificDreamer (arXiv:2305.16213): the parts of DreamFusion, distilled by `vsd` with its usual scale."""

    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(loss="vsd", guidance_scale=7.5))


@dataclass(frozen=True)
class DreamGaussianConfig(SystemConfig):
    """The parts of a distillation whose scene is 3D Gaussians unless it is told otherwise."""

    geometry_type: str = GAUSSIAN_SPLATTING
