"""Fields and optimisers from the blocks of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamprop.methods.config import OptimizerConfig, SystemConfig
from dreamprop.optim import OPTIMIZERS, Optimizer, ParamGroup
from dreamprop.scenes.density import Density
from dreamprop.scenes.field import Field
from dreamprop.scenes.hashgrid import HashGrid
from dreamprop.scenes.voxel import VoxelGrid


def make_field(system: SystemConfig) -> Field:
    """The field that `geometry_type` names."""
    g = system.geometry
    density = Density(
        g.density_activation, g.density_scale, g.density_bias, g.density_blob_scale, g.density_blob_std
    )
    if system.geometry_type == "volume-grid":
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


RATES = {"volume-grid": 0.15, "implicit-volume": 0.01}
"""Learning rates that suit the fields on the embedded model, where a config gives none."""


def make_optimizer(
    config: OptimizerConfig, geometry_type: str, groups: Mapping[str, tuple[str, ...]]
) -> Optimizer:
    """The optimiser of a config for a kind of field and its groups of parameters.

    Raises:
        ValueError: an unknown group or argument, or one out of range.
    """
    for key in config.params:
        if key not in groups:
            raise ValueError(
                f"system.optimizer.params must name groups of {', '.join(groups)}, got {key!r}; rename or drop it"
            )
    args = dict(config.args)
    lr = args.pop("lr", RATES[geometry_type])
    made = []
    for key, names in groups.items():
        own = _options(config.params.get(key) or {})
        made.append(ParamGroup(names, own.pop("lr", lr), own, key))
    if "betas" in args:
        args["betas"] = tuple(args["betas"])
    try:
        optimizer: Optimizer = OPTIMIZERS[config.name](made, **args)
    except TypeError as error:
        words = str(error).split("'")
        what = words[1] if len(words) > 1 else str(error)
        raise ValueError(
            f"system.optimizer.args must be arguments of {config.name}, got {what!r}; drop it"
        ) from None
    return optimizer


def _options(block: Mapping[str, Any]) -> dict[str, Any]:
    """What a group overrides, with `betas` as the single numbers that groups take."""
    options = dict(block)
    for number, value in enumerate(options.pop("betas", ()), start=1):
        options[f"beta{number}"] = value
    return options
