"""The settings of a run that makes pictures, as frozen dataclasses that check themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dreamprop.config.validate import choose, number
from dreamprop.errors import InputError
from dreamprop.runs.config import ParallelConfig, RunConfig
from dreamprop.runs.sampling.methods import METHODS, taken
from dreamprop.sampling.loading import SCHEDULERS
from dreamprop.solver.predict import PREDICTORS

SAMPLING = "sampling-system"
"""The `system_type` of a config that makes pictures."""


@dataclass(frozen=True)
class SamplingPromptConfig:
    """What the pictures show."""

    prompt: str = ""
    negative_prompt: str = ""
    """What guidance leads away from."""


@dataclass(frozen=True)
class SamplingGuidanceConfig:
    """The model."""

    pretrained_model_name_or_path: str = "embedded"
    """`embedded` (the shipped model, pictures of 64 pixels), a folder in diffusers' layout, or a name on the hub: a
    `StableDiffusionPipeline` or a `StableDiffusionXLPipeline`."""
    guidance_scale: float = 7.5
    """Of classifier-free guidance; up to 1 there is none."""
    half_precision_weights: bool = False
    """Whether the model runs in float16; for GPUs."""

    def __post_init__(self) -> None:
        number("system.guidance.guidance_scale", self.guidance_scale, 0, 1e6, remedy="use 7.5")


@dataclass(frozen=True)
class SamplerConfig:
    """How pictures are sampled, in diffusers' words; null: what the method has by itself."""

    method: str = "paradigms"
    """One of `runs.sampling.methods.METHODS`."""
    scheduler: str | None = "ddim"
    """`ddim`, `ddpm`, `dpm-solver++`, `euler` or `heun`; null: the model's own."""
    num_inference_steps: int = 50
    """As the scheduler counts them; Heun's asks the U-Net twice in all but the last."""
    eta: float = 0.0
    """Of DDIM: 0 is deterministic, 1 is as noisy as DDPM."""
    num_images_per_prompt: int = 4
    """Pictures, each from noise of its own."""
    height: int | None = None
    """Pixels; null: what the model was trained on."""
    width: int | None = None
    """Pixels; null: what the model was trained on."""

    blocks: int | None = None
    """Of `srds` and `piadm`: into how many the steps are cut; null: the root of their number, and 8. Of
    `randomized-midpoint`: behind how many of them a corrector acts."""
    max_sweeps: int | None = None
    """Of `srds`: where to stop in any case; null: as many as blocks, where the pictures are exact."""
    form: str | None = None
    """Of `piadm` and `randomized-midpoint`: `ode` or `sde`."""
    points: int | None = None
    """Of `piadm`: steps of a block, evaluated together."""
    sweeps: int | None = None
    """Of `piadm`: rounds of a block. Of `randomized-midpoint`: Picard sweeps of the midpoints of a step."""
    midpoints: int | None = None
    """Of `randomized-midpoint`: of a step, predicted together."""
    hold: str | None = None
    """Of `piadm`: what is constant over a step, the predicted `noise` or the `score`."""

    def __post_init__(self) -> None:
        key = "system.sampler"
        choose(self.method, list(METHODS), f"{key}.method")
        if self.scheduler is not None:
            choose(self.scheduler, list(SCHEDULERS), f"{key}.scheduler")
        steps = self.num_inference_steps
        number(f"{key}.num_inference_steps", steps, 1, 1e6, whole=True, remedy="use 50")
        number(f"{key}.eta", self.eta, 0, 1, remedy="use 0 for the deterministic sampler")
        images = self.num_images_per_prompt
        number(f"{key}.num_images_per_prompt", images, 1, 10_000, whole=True, remedy="use 4")
        for side in ("height", "width"):
            given = getattr(self, side)
            if given is not None:
                number(f"{key}.{side}", given, 8, 8192, whole=True, unit="pixels", remedy="use null")
                if given % 8:
                    raise InputError(
                        f"{key}.{side} must be a multiple of 8, got {given}; use {given // 8 * 8}"
                    )
        refuse_others(key, self, self.method)


@dataclass(frozen=True)
class SamplingSystemConfig:
    """What is drawn, by which model, and how."""

    prompt_processor: SamplingPromptConfig = field(default_factory=SamplingPromptConfig)
    guidance: SamplingGuidanceConfig = field(default_factory=SamplingGuidanceConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


@dataclass(frozen=True)
class SamplingTrainerConfig:
    """What a run that makes pictures shares with one that trains."""

    deterministic: bool = False
    """Whether PyTorch takes deterministic algorithms alone: on CUDA sums come in any order otherwise, and two runs
    differ in their last bits. Slower."""


@dataclass(frozen=True)
class SamplingParallelConfig:
    """How the chain is solved, with the keys of a run that trains; null: what the method has by itself."""

    window: int | str | None = None
    """Steps whose predictions are made together; 1 is the sequential sampler. `auto` (the default of `paradigms`): the
    quickest by the clock. The folder of a run: the windows that it chose."""
    tolerance: float | None = None
    """Largest error of a guess that is accepted, in the units of the method; 0: the sequential result, for proofs.
    `paradigms`: 0.1 times the noise of a step."""
    predictor: str | None = None
    """The guess for steps of the window: `momentum` goes on with the last prediction in steps that are new in it,
    `restart` in all of them, `anderson` mixes two rounds, `hold` copies; null with `paradigms`: `restart` where steps
    add no noise, else `anderson`."""
    evaluator: str | None = None
    """`batched`, `serial`, `distributed`, or null: distributed under torchrun; else batched, but serial with
    `window: 1` and `tolerance: 0`."""
    sub_batch: int | None = None
    """States in one call of the U-Net at most; null: all of a device's share. A state is all pictures of a step."""
    timeout: float = ParallelConfig.timeout
    """Seconds that another process may be silent before it is named and the run ends."""

    def __post_init__(self) -> None:
        _ = self.checked
        if self.predictor is not None:
            choose(self.predictor, list(PREDICTORS), "parallel.predictor")

    @property
    def checked(self) -> ParallelConfig:
        """The same settings as those of a run that trains, which checks them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "predictor"}
        return ParallelConfig(**{name: value for name, value in values.items() if value is not None})


@dataclass(frozen=True)
class SamplingConfig(RunConfig):
    """A whole run."""

    name: str = "sample"
    system_type: str = SAMPLING
    system: SamplingSystemConfig = field(default_factory=SamplingSystemConfig)
    trainer: SamplingTrainerConfig = field(default_factory=SamplingTrainerConfig)
    parallel: SamplingParallelConfig = field(default_factory=SamplingParallelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        prompt = self.system.prompt_processor.prompt
        if not prompt.strip():
            raise InputError(
                f"system.prompt_processor.prompt must have a word, got {prompt!r}; "
                'give system.prompt_processor.prompt="a red mug"'
            )
        refuse_others("parallel", self.parallel, self.system.sampler.method)

    @property
    def given(self) -> dict[str, Any]:
        """Every setting by the keyword that samplers have for it; None where the method's own holds."""
        sampler, parallel = (_values(block) for block in (self.system.sampler, self.parallel))
        return {
            **sampler,
            **{name: parallel[name] for name in SOLVING},
            "guidance_scale": self.system.guidance.guidance_scale,
            "negative_prompt": self.system.prompt_processor.negative_prompt or None,
        }


ALL = {"method", "scheduler", "evaluator", "sub_batch", "timeout"}
"""Keys that are no keyword of a method's function, or of each."""
SOLVING = ("window", "tolerance", "predictor")
"""Keys of `parallel` that are keywords of some methods."""


def refuse_others(key: str, block: Any, name: str) -> None:
    """See that a block says nothing that only other methods take.

    Args:
        key: of the block.
        block: the settings.
        name: of the method.

    Raises:
        InputError: it does.
    """
    known = taken(METHODS[name].sampler)
    for f in fields(block):
        value = getattr(block, f.name)
        if f.name not in known.keys() | ALL and value != f.default:
            others = [other for other, method in METHODS.items() if f.name in taken(method.sampler)]
            raise InputError(
                f"{key}.{f.name} must be left out with method {name}, got {value!r}; drop it, or use "
                f"system.sampler.method={' or '.join(others)}"
            )


def _values(block: Any) -> Mapping[str, Any]:
    return {f.name: getattr(block, f.name) for f in fields(block)}
