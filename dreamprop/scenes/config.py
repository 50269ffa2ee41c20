"""The blocks of a config that describe a scene, under threestudio's key names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dreamprop.config.schedule_checks import check_milestones, check_name, check_numbers, check_staged, staged
from dreamprop.config.validate import number
from dreamprop.scenes.density import ACTIVATIONS, BIASES
from dreamprop.scenes.gaussians.config import GaussiansConfig

VOLUME_GRID, IMPLICIT_VOLUME, GAUSSIAN_SPLATTING = GEOMETRIES = (
    "volume-grid", "implicit-volume", "gaussian-splatting",
)  # fmt: skip
RANDOM_COLOR, RANDOM_GRADIENT, SOLID_COLOR = BACKGROUNDS = (
    "random-color-background", "random-gradient-background", "solid-color-background",
)  # fmt: skip


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
    """The scene: what density and colour are made of."""

    radius: float = 1.0
    """Radius of the ball that holds the scene."""
    density_activation: str = "softplus"
    """From the raw field plus its bias to density: `softplus` or `exp`."""
    density_scale: float = 4.0
    """Density per unit of activation, in 1 / length; larger makes surfaces harder at the same learning rate."""
    density_bias: str = "blob_magic3d"
    """`blob_magic3d` (a cone), `blob_dreamfusion` (a Gaussian) or `none`: where the density is at the start."""
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

    gaussians: GaussiansConfig = field(default_factory=GaussiansConfig)
    """gaussian-splatting: where Gaussians begin, and how their number changes."""

    def __post_init__(self) -> None:
        key = "system.geometry"
        for name, low in (
            ("radius", 1e-3), ("density_scale", 1e-6), ("density_blob_std", 1e-6),
            ("finite_difference_normal_eps", 1e-6),
        ):  # fmt: skip
            number(f"{key}.{name}", getattr(self, name), low, 1e6)
        number(f"{key}.density_blob_scale", self.density_blob_scale, -1e6, 1e6)
        check_name(f"{key}.density_activation", self.density_activation, tuple(ACTIVATIONS))
        check_name(f"{key}.density_bias", self.density_bias, tuple(BIASES))
        check_milestones(f"{key}.resolution_milestones", self.resolution_milestones)
        check_staged(f"{key}.resolution", self.resolution, self.resolution_milestones, 4, 1024)

    def side(self, step: int) -> int:
        """Vertices along a side of the volume grid that enters a step."""
        return staged(self.resolution, self.resolution_milestones, step)


@dataclass(frozen=True)
class MaterialConfig:
    """Light and shading (arXiv:2209.14988, section 3.2)."""

    ambient_only_steps: int = 1_000_000_000
    """Before this step colours are shown as they are; the embedded model's pictures are lit, so it needs no light."""
    diffuse_prob: float = 0.75
    """From then on the share of steps that are shaded by the light."""
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
    """How rays are sampled and which samples are skipped."""

    num_samples_per_ray: int = 32
    """Samples along the ball's diameter; shorter chords take fewer at the same spacing."""
    prune_alpha: float = 0.01
    """Cells are skipped whose matter along 1/32 of the ball's diameter has less opacity than this, however many
    samples a ray takes; 0 skips none. A third of the samples is left then by the middle of a run, to no visible
    loss."""
    eval_num_samples_per_ray: int = 96
    """Samples along the ball's diameter for pictures of a result."""

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
