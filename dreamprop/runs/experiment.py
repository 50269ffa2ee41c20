"""From a config to a process: the table of methods, and the one that a config asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from dreamprop import prior
from dreamprop.config import loader as configs
from dreamprop.config.validate import choose
from dreamprop.methods.config import (
    DataConfig,
    DreamGaussianConfig,
    ProlificDreamerConfig,
    SystemConfig,
)
from dreamprop.runs import directory as folders
from dreamprop.runs.config import ExperimentConfig, RunConfig
from dreamprop.runs.sampling.config import SAMPLING, SamplingConfig
from dreamprop.utils.device import device_of


@dataclass(frozen=True)
class Method:
    """What a method is made of."""

    name: str
    """Its name in a summary."""
    process: Callable[..., Any]
    """Makes the process: `process(data, system, seed=, max_steps=, device=)`."""
    data: type
    """The block `data` of its config."""
    system: type
    """The block `system` of its config."""


def _dreamfusion(*args: Any, **options: Any) -> Any:
    # diffusers and transformers take seconds to import, and a wrong setting should be told before that.
    from dreamprop.methods.dreamfusion import DreamFusion

    return DreamFusion(*args, **options)


METHODS = {
    "dreamfusion-system": Method("dreamfusion", _dreamfusion, DataConfig, SystemConfig),
    "prolificdreamer-system": Method("prolificdreamer", _dreamfusion, DataConfig, ProlificDreamerConfig),
    "dreamgaussian-system": Method("dreamgaussian", _dreamfusion, DataConfig, DreamGaussianConfig),
}
"""The methods by `system_type`."""


def schema(system_type: str) -> type[RunConfig]:
    """The tree of settings of a method.

    Raises:
        InputError: the method is unknown.
    """
    if choose(system_type, [*METHODS, SAMPLING], "system_type") == SAMPLING:
        return SamplingConfig
    method = METHODS[system_type]
    blocks = [
        ("data", method.data, field(default_factory=method.data)),
        ("system", method.system, field(default_factory=method.system)),
    ]
    return make_dataclass("Experiment", blocks, bases=(ExperimentConfig,), frozen=True)


@dataclass(frozen=True)
class Experiment:
    """A checked config: as dataclasses for the program and as a tree for the files."""

    config: Any
    """The dataclasses: an `ExperimentConfig` with `data` and `system`, or a `SamplingConfig`."""
    tree: DictConfig
    """The same, resolved, as OmegaConf has it."""

    prompt: str
    """What the run is to make."""
    method: str
    """The name of the method that makes it."""
    judged: str
    """The prompt that the shipped judge can look for: one that a shipped model was given; else nothing."""


def tagged(tree: DictConfig, tag: str) -> DictConfig:
    """The same config under the tag of the folder it got."""
    tree = tree.copy()
    OmegaConf.set_readonly(tree, False)
    tree.tag = tag
    return tree


def load(path: Path | str, arguments: Sequence[str] = ()) -> Experiment:
    """Read and check the config of a run.

    Args:
        path: a YAML file.
        arguments: dot-list overrides.

    Raises:
        InputError: anything in it is wrong.
    """
    layers = [configs.read(path), configs.overrides(arguments)]
    tree_schema = schema(configs.word(layers, "system_type", ExperimentConfig.system_type))
    tree = configs.merge(tree_schema, layers)
    if not tree.tag:
        tree = tagged(tree, folders.tag_of(str(tree.system.prompt_processor.prompt)))
    config = cast(Any, configs.build(tree_schema, tree))
    folders.component(config.name, "name")
    folders.component(config.tag, "tag")
    prompt = str(config.system.prompt_processor.prompt)
    embedded = str(config.system.guidance.pretrained_model_name_or_path) in prior.MODELS
    draws = config.system_type == SAMPLING
    method = config.system.sampler.method if draws else METHODS[config.system_type].name
    return Experiment(config, tree, prompt, method, prompt if embedded else "")


def make_process(experiment: Experiment) -> Any:
    """Build the process of a run: the scene, the guidance with its model, the cameras.

    Args:
        experiment: the checked config.

    Returns:
        A `Process` that also has `render_views`, `density_and_color`, `bound` and, for its draws, `seed`.

    Raises:
        InputError: a setting that only the parts can judge is wrong: a word, a model folder, a type.
    """
    config = experiment.config
    return METHODS[config.system_type].process(
        config.data,
        config.system,
        seed=config.seed,
        max_steps=config.trainer.max_steps,
        device=device_of(config.device),
    )
