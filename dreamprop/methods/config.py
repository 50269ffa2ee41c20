"""The blocks `data` and `system` of a config, under threestudio's key names.

A *schedule* is a number or `[start_step, start_value, end_value, end_step]` (linear in between, constant outside). A
*staged* value is one value, or a list of values of which the next one holds from each of the block's
`resolution_milestones` on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dreamprop.config.schedule_checks import (
    check_milestones,
    check_name,
    check_numbers,
    check_order,
    check_range,
    check_schedule,
    check_staged,
    staged,
)
from dreamprop.config.validate import number
from dreamprop.optim import OPTIMIZERS
from dreamprop.optim.options import check_options

GEOMETRIES = ("volume-grid", "implicit-volume")
BACKGROUNDS = ("random-color-background", "solid-color-background")
WEIGHTINGS = ("sds", "uniform", "fantasia3d")
ACTIVATIONS = ("softplus", "exp")
BIASES = ("blob_magic3d", "blob_dreamfusion", "none")


@dataclass(frozen=True)
class DataConfig:
    """Pictures and cameras of a step: z up, azimuth 0 in front on +x, angles in degrees."""

    batch_size: Any = 2
    """Pictures a step (staged)."""
    width: Any = 32
    """Pixels across (staged)."""
    height: Any = 32
    """Pixels down (staged)."""
    resolution_milestones: list[int] = field(default_factory=list)
    """Steps at which `batch_size`, `width` and `height` take their next value."""
    elevation_range: list[float] = field(default_factory=lambda: [-10.0, 50.0])
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
    """Distance of the lamp from the origin."""
    light_position_perturb: float = 1.0
    """Standard deviation of the lamp's place before it is put at its distance."""

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


@dataclass(frozen=True)
class EncodingConfig:
    """Multiresolution hash encoding (arXiv:2201.05989)."""

    n_levels: int = 4
    n_features_per_level: int = 4
    log2_hashmap_size: int = 15
    """Rows of a level's table at most, as a power of two."""
    base_resolution: int = 8
    """Vertices along a side of the coarsest level."""
    per_level_scale: float = 2.0
    """How much finer each level is than the one before."""

    def __post_init__(self) -> None:
        key = "system.geometry.pos_encoding_config"
        for name, low, high in (
            ("n_levels", 1, 32), ("n_features_per_level", 1, 16), ("log2_hashmap_size", 4, 24),
            ("base_resolution", 2, 4096), ("per_level_scale", 1, 8),
        ):  # fmt: skip
            number(f"{key}.{name}", getattr(self, name), low, high, remedy="use the nearer end")


@dataclass(frozen=True)
class NetworkConfig:
    """The small network behind the encoding."""

    n_neurons: int = 32
    n_hidden_layers: int = 1

    def __post_init__(self) -> None:
        for name, high in (("n_neurons", 4096), ("n_hidden_layers", 64)):
            key = f"system.geometry.mlp_network_config.{name}"
            number(key, getattr(self, name), 1, high, whole=True, remedy="use 32 neurons in 1 layer")


@dataclass(frozen=True)
class GeometryConfig:
    """The radiance field: what density and colour are made of."""

    radius: float = 1.0
    """Radius of the ball that holds the scene."""
    density_activation: str = "softplus"
    """From the raw field plus its bias to density: `softplus` or `exp`."""
    density_scale: float = 4.0
    """Density per unit of activation, in 1 / length; larger makes surfaces harder at the same learning rate."""
    density_bias: str = "blob_magic3d"
    """`blob_magic3d` (a cone), `blob_dreamfusion` (a Gaussian) or `none`: where there is matter at the start."""
    density_blob_scale: float = 2.0
    density_blob_std: float = 0.5
    resolution: Any = 32
    """volume-grid: vertices along a side (staged)."""
    resolution_milestones: list[int] = field(default_factory=list)
    """volume-grid: steps at which the grid grows to its next `resolution`."""
    pos_encoding_config: EncodingConfig = field(default_factory=EncodingConfig)
    """implicit-volume: the hash encoding."""
    mlp_network_config: NetworkConfig = field(default_factory=NetworkConfig)
    """implicit-volume: the network."""
    finite_difference_normal_eps: float = 0.02
    """implicit-volume: step of the difference quotients that give normals, as a share of the radius."""

    def __post_init__(self) -> None:
        key = "system.geometry"
        for name, low in (
            ("radius", 1e-3), ("density_scale", 1e-6), ("density_blob_std", 1e-6),
            ("finite_difference_normal_eps", 1e-6),
        ):  # fmt: skip
            number(f"{key}.{name}", getattr(self, name), low, 1e6)
        number(f"{key}.density_blob_scale", self.density_blob_scale, -1e6, 1e6)
        check_name(f"{key}.density_activation", self.density_activation, ACTIVATIONS)
        check_name(f"{key}.density_bias", self.density_bias, BIASES)
        check_milestones(f"{key}.resolution_milestones", self.resolution_milestones)
        check_staged(f"{key}.resolution", self.resolution, self.resolution_milestones, 4, 1024)

    def side(self, step: int) -> int:
        """Vertices along a side of the volume grid that enters a step."""
        return staged(self.resolution, self.resolution_milestones, step)


@dataclass(frozen=True)
class MaterialConfig:
    """Light and shading (arXiv:2209.14988, section 3.2)."""

    ambient_only_steps: int = 1_000_000_000
    """Before this step colours are shown as they are; the embedded model's pictures are lit, so it needs no lamp."""
    diffuse_prob: float = 0.75
    """From then on the share of steps that are lit by the lamp."""
    textureless_prob: float = 0.5
    """The share of those whose colours are replaced by white."""
    ambient_light_color: list[float] = field(default_factory=lambda: [0.1, 0.1, 0.1])
    diffuse_light_color: list[float] = field(default_factory=lambda: [0.9, 0.9, 0.9])

    def __post_init__(self) -> None:
        key = "system.material"
        number(f"{key}.ambient_only_steps", self.ambient_only_steps, 0, 1e9, whole=True, remedy="use 0")
        for name in ("diffuse_prob", "textureless_prob"):
            number(f"{key}.{name}", getattr(self, name), 0, 1, remedy="use 0.75")
        for name in ("ambient_light_color", "diffuse_light_color"):
            check_numbers(f"{key}.{name}", getattr(self, name), 3, 100, (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class RendererConfig:
    """Volume rendering."""

    num_samples_per_ray: int = 32
    """Samples along the ball's diameter; shorter chords take fewer at the same spacing."""
    prune_alpha: float = 0.01
    """Samples whose cell is emptier than this opacity are skipped; 0 skips none. A third of the samples is left then
    by the middle of a run, to no visible loss."""
    eval_num_samples_per_ray: int = 96
    """The same for pictures of a result."""

    def __post_init__(self) -> None:
        for name in ("num_samples_per_ray", "eval_num_samples_per_ray"):
            number(f"system.renderer.{name}", getattr(self, name), 2, 65536, whole=True, remedy="use 48")
        number("system.renderer.prune_alpha", self.prune_alpha, 0, 1, below=True, remedy="use 0.001")


@dataclass(frozen=True)
class BackgroundConfig:
    """What is behind the scene."""

    color: list[float] = field(default_factory=lambda: [0.6, 0.62, 0.66])
    """Of the solid background, and behind pictures of a result; neither white nor black, which objects may be."""

    def __post_init__(self) -> None:
        check_numbers("system.background.color", self.color, 3, 1, (1, 1, 1))


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
        check_name(f"{key}.weighting_strategy", self.weighting_strategy, WEIGHTINGS)
        number(f"{key}.resolution", self.resolution, 0, 8192, whole=True, remedy="use 0 for the model's own")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (schedules)."""

    lambda_sds: Any = 1.0
    lambda_orient: Any = 0.0
    """Normals that face away from the camera where they are seen (arXiv:2209.14988, section 3.2)."""
    lambda_sparsity: Any = 200.0
    """Mean opacity. Score distillation is summed over pixels, so at 32 x 32 this is a fifth of a unit each; it keeps
    holes open, which are otherwise filled with matter of the background's colour."""
    lambda_opaque: Any = 0.0
    """Opacity that is neither 0 nor 1."""
    lambda_tv: Any = 0.0
    """Squared differences between neighbours in a volume grid."""

    def __post_init__(self) -> None:
        for name in ("lambda_sds", "lambda_orient", "lambda_sparsity", "lambda_opaque", "lambda_tv"):
            check_schedule(f"system.loss.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser."""

    name: str = "Adam"
    args: dict[str, Any] = field(default_factory=lambda: {"betas": [0.9, 0.99], "eps": 1e-15})
    """Its settings, null for those to leave out; `lr` may be a schedule and is by default 0.15 for a volume-grid, 0.01
    for an implicit-volume."""
    params: dict[str, Any] = field(default_factory=dict)
    """What differs by group, `{geometry.density: {lr: 0.05}}`: the groups are `geometry.density` and
    `geometry.color` of a volume-grid, `geometry.encoding` and `geometry.network` of an implicit-volume."""

    def __post_init__(self) -> None:
        check_name("system.optimizer.name", self.name, tuple(OPTIMIZERS))
        check_options("system.optimizer.args", self.name, self.args)


@dataclass(frozen=True)
class SystemConfig:
    """The method's parts."""

    geometry_type: str = "volume-grid"
    """`volume-grid` (a voxel grid, fast on CPUs) or `implicit-volume` (a hash grid and a small network)."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    material: MaterialConfig = field(default_factory=MaterialConfig)
    background_type: str = "random-color-background"
    """`random-color-background` (soft, drawn anew for every picture) or `solid-color-background`."""
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    renderer: RendererConfig = field(default_factory=RendererConfig)
    prompt_processor: PromptConfig = field(default_factory=PromptConfig)
    guidance_type: str = "sds-guidance"
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check_name("system.geometry_type", self.geometry_type, GEOMETRIES)
        check_name("system.background_type", self.background_type, BACKGROUNDS)
        check_name("system.guidance_type", self.guidance_type, ("sds-guidance",))
