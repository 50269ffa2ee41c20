"""Scenes and optimisers from the blocks of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamprop.config.schedule_checks import given, refuse
from dreamprop.methods.config import OptimizerConfig, SystemConfig
from dreamprop.optim import OPTIMIZERS, Optimizer, ParamGroup
from dreamprop.optim.options import check_options
from dreamprop.scenes.config import GAUSSIAN_SPLATTING, IMPLICIT_VOLUME, VOLUME_GRID
from dreamprop.scenes.density import Density
from dreamprop.scenes.field import Field
from dreamprop.scenes.gaussians import names as gaussians
from dreamprop.scenes.gaussians.scene import Gaussians
from dreamprop.scenes.hash_grid import HashGrid
from dreamprop.scenes.particles import Particles
from dreamprop.scenes.scene import Scene
from dreamprop.scenes.volume import Volume
from dreamprop.scenes.volume_grid import VoxelGrid
from dreamprop.schedule import Schedule


def make_scene(system: SystemConfig) -> Scene:
    """The scene that `geometry_type` names."""
    if system.geometry_type == GAUSSIAN_SPLATTING:
        return Gaussians(system.geometry.gaussians, system.geometry.radius)
    one = Volume(make_field(system), system.geometry, system.renderer)
    return Particles(one, system.num_particles) if system.num_particles > 1 else one


def make_field(system: SystemConfig) -> Field:
    """The radiance field that `geometry_type` names."""
    g = system.geometry
    density = Density(
        g.density_activation, g.density_scale, g.density_bias, g.density_blob_scale, g.density_blob_std
    )
    if system.geometry_type == VOLUME_GRID:
        return VoxelGrid(g.side(0), g.radius, density)
    e, n = g.pos_encoding_config, g.mlp_network_config
    return HashGrid(
        levels=e.n_levels,
        features=e.n_features_per_level,
        log2_rows=e.log2_hashmap_size,
        coarsest=e.base_resolution,
        growth=e.per_level_scale,
        neurons=n.n_neurons,
        hidden=n.n_hidden_layers,
        radius=g.radius,
        density=density,
        difference=g.finite_difference_normal_eps,
    )


RATES: dict[str, Schedule | dict[str, Schedule]] = {
    VOLUME_GRID: 0.15,
    IMPLICIT_VOLUME: 0.01,
    GAUSSIAN_SPLATTING: {
        gaussians.XYZ: 0.005,
        gaussians.FEATURES_DC: 0.05,
        gaussians.FEATURES_REST: 0.0025,
        gaussians.OPACITY: 0.05,
        gaussians.SCALING: 0.02,
        gaussians.ROTATION: 0.02,
    },
}
"""Learning rates where a config gives none, those that suit the scenes on the embedded models; by group where the
groups' units differ."""
GUIDANCE_RATE = 1e-4
"""Learning rate of what a guidance learns where a config gives none for its group; that of the scene is far from it."""


def make_optimizer(
    config: OptimizerConfig, geometry_type: str, groups: Mapping[str, tuple[str, ...]]
) -> Optimizer:
    """The optimiser of a config for a kind of scene, its groups of parameters and those of its guidance.

    Raises:
        InputError: an unknown group, or an option of one that is unknown or out of range.
    """
    args = given(config.args)
    rates = args.pop("lr", RATES[geometry_type])
    params = _by_group(config.params, groups)
    made = []
    for key, names in groups.items():
        check_options(f"system.optimizer.params.{key}", config.name, params[key], group=True)
        own = _options(given(params[key]))
        usual = (
            GUIDANCE_RATE if key.startswith("guidance.") else rates[key] if isinstance(rates, dict) else rates
        )
        made.append(ParamGroup(names, own.pop("lr", usual), own, key))
    if "betas" in args:
        args["betas"] = tuple(args["betas"])
    optimizer: Optimizer = OPTIMIZERS[config.name](made, **args)
    return optimizer


def _by_group(params: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, Any]:
    """What each group overrides; `geometry.density` may stand as one key or as one inside the other."""
    found: dict[str, Any] = {group: {} for group in groups}

    def collect(block: Mapping[str, Any], above: str) -> None:
        for name, value in block.items():
            key = above + str(name)
            if key in groups and isinstance(value, Mapping):
                found[key] |= value
            elif key in groups:
                found[key] = value or found[key]
            elif isinstance(value, Mapping) and any(group.startswith(f"{key}.") for group in groups):
                collect(value, f"{key}.")
            else:
                refuse(
                    "system.optimizer.params", f"name groups of {', '.join(groups)}", key, "rename or drop it"
                )

    collect(params, "")
    return found


def _options(block: Mapping[str, Any]) -> dict[str, Any]:
    """What a group overrides, with `betas` as the single numbers that groups take."""
    options = dict(block)
    for number, value in enumerate(options.pop("betas", ()), start=1):
        options[f"beta{number}"] = value
    return options
