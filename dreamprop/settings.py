"""The settings of a run that do not depend on the method, as frozen dataclasses that check themselves."""

import math
from dataclasses import dataclass, field

from dreamprop.audit import SHARE
from dreamprop.config import InputError, choose

ERROR_RULES = ("step", "paper")
AGGREGATES = ("median", "mean", "middle")
PREDICTORS = ("momentum", "hold")
EVALUATORS = ("batched", "serial", "distributed")
LAYOUTS = ("replicated", "sharded")
ON_NONFINITE = ("stop", "skip")


@dataclass(frozen=True)
class TrainerConfig:
    """How long a run is."""

    max_steps: int = 120
    """Optimiser steps."""

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"trainer.max_steps must be >= 1, got {self.max_steps}; use 120")


@dataclass(frozen=True)
class ParallelConfig:
    """How the chain is solved; the words are those of `dreamprop.solve`."""

    window: int = 8
    """Steps evaluated together; 1 is the sequential run."""
    tolerance: float = 1.0
    """Largest error of an accepted guess, in nominal optimiser steps (rule `step`)."""
    error_rule: str = "step"
    """`step`, or `paper` (arXiv:2311.17082, algorithm 1)."""
    threshold: float | None = None
    """First threshold of the rule `paper`, on the mean square times 1e6; null: the paper's."""
    decay: float = 0.9
    """How much of the threshold the rule `paper` keeps each round."""
    aggregate: str = "median"
    """What of a window's errors moves the threshold: `median`, `mean`, or `middle` (the published code's)."""
    predictor: str = "momentum"
    """The guess for steps new in the window: `momentum` or `hold`."""
    evaluator: str | None = None
    """`batched` (all states of a window in one evaluation), `serial`, `distributed` (every process its part), or
    null: distributed under torchrun; else batched, but serial where the rounding of a batch would break a promise
    (`window: 1` and `tolerance: 0`)."""
    sub_batch: int | None = None
    """States in one batch at most; null: all of a device's share."""
    layout: str = "replicated"
    """Where states live on several processes: `replicated` (everywhere) or `sharded` (a part of each tensor on each
    process: less memory and less to send)."""
    on_nonfinite: str = "stop"
    """What a drift that is not finite does: `stop`, or `skip` its update as a gradient scaler does, and count it."""
    audit: float = SHARE
    """Share of the accepted steps whose drift is evaluated again at the state that was accepted, to report what the
    tolerance gave up; 0: none."""
    buffer_units: dict[str, float] = field(default_factory=dict)
    """By name or pattern of a buffer, the relative difference that counts as one nominal step (0.1 by default; `.inf`
    leaves it out), as in `{"*.occs": .inf}`."""
    timeout: float = 600.0
    """Seconds that another process may be silent before it is named and the run ends."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"parallel.window must be >= 1, got {self.window}; use 1 to run sequentially")
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise InputError(f"parallel.tolerance must be finite and >= 0, got {self.tolerance}; use 1.0")
        if self.threshold is not None and not self.threshold > 0:
            raise InputError(
                f"parallel.threshold must be > 0, got {self.threshold}; use null for the paper's"
            )
        if not 0 <= self.decay < 1:
            raise InputError(f"parallel.decay must be in [0, 1), got {self.decay}; use 0.9")
        if self.sub_batch is not None and self.sub_batch < 1:
            raise InputError(
                f"parallel.sub_batch must be >= 1, got {self.sub_batch}; use null for all states"
            )
        if not 0 <= self.audit <= 1:
            raise InputError(f"parallel.audit must be in [0, 1], got {self.audit}; use 0 for none")
        for name, unit in self.buffer_units.items():
            if not unit > 0:
                raise InputError(
                    f"parallel.buffer_units must be > 0, got {unit} for {name}; use .inf to leave it out"
                )
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise InputError(f"parallel.timeout must be > 0 seconds, got {self.timeout}; use 600")
        choose(self.error_rule, ERROR_RULES, "parallel.error_rule")
        choose(self.aggregate, AGGREGATES, "parallel.aggregate")
        choose(self.predictor, PREDICTORS, "parallel.predictor")
        if self.evaluator is not None:
            choose(self.evaluator, EVALUATORS, "parallel.evaluator")
        choose(self.layout, LAYOUTS, "parallel.layout")
        choose(self.on_nonfinite, ON_NONFINITE, "parallel.on_nonfinite")


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run saves itself."""

    every_n_train_steps: int = 100
    """Steps between two checkpoints; 0: only at the end and on an interrupt."""
    train_time_interval: float = 300.0
    """Seconds between two checkpoints; 0: only by steps."""
    keep: int = 2
    """How many of the newest checkpoints stay."""

    def __post_init__(self) -> None:
        if self.every_n_train_steps < 0:
            raise InputError(
                f"checkpoint.every_n_train_steps must be >= 0, got {self.every_n_train_steps}; use 0 for none"
            )
        if not (self.train_time_interval >= 0 and math.isfinite(self.train_time_interval)):
            raise InputError(
                f"checkpoint.train_time_interval must be >= 0 seconds, got {self.train_time_interval}; use 0 for none"
            )
        if self.keep < 1:
            raise InputError(f"checkpoint.keep must be >= 1, got {self.keep}; use 1 for the newest only")


@dataclass(frozen=True)
class OutputConfig:
    """The pictures of a run."""

    views: int = 8
    """Views in `views.png` and for the judge, evenly around the object."""
    view_size: int = 64
    """Pixels along a side of a view."""
    elevation: float = 25.0
    """Height of the cameras of all pictures, in degrees."""
    turntable_frames: int = 36
    """Frames of one turn."""
    turntable_size: int = 128
    """Pixels along a side of a frame."""
    turntable_fps: int = 12
    """Frames a second."""
    preview_every_n_steps: int = 50
    """Steps between two pictures `preview.png` while the run goes on; 0: none."""

    def __post_init__(self) -> None:
        for name in ("views", "view_size", "turntable_frames", "turntable_size", "turntable_fps"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"output.{name} must be >= 1, got {getattr(self, name)}; drop it for the default"
                )
        if not -90 <= self.elevation <= 90:
            raise InputError(f"output.elevation must be in [-90, 90], got {self.elevation}; use 25")
        if self.preview_every_n_steps < 0:
            raise InputError(
                f"output.preview_every_n_steps must be >= 0, got {self.preview_every_n_steps}; use 0 for none"
            )


@dataclass(frozen=True)
class ExportConfig:
    """How the surface is taken out of a density."""

    resolution: int = 96
    """Grid points along a side of the cube."""
    threshold: float = 5.0
    """Density of the surface, per unit of length."""
    smallest_part: float = 0.02
    """Loose parts with a smaller share of the faces than this are left out."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024:
            raise InputError(f"export.resolution must be in [8, 1024], got {self.resolution}; use 96")
        if not self.threshold > 0:
            raise InputError(f"export.threshold must be > 0, got {self.threshold}; use 5")
        if not 0 <= self.smallest_part < 1:
            raise InputError(f"export.smallest_part must be in [0, 1), got {self.smallest_part}; use 0.02")


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole run; `build.schema` adds the blocks `data` and `system` of the method."""

    name: str = "dreamfusion"
    """Folder of runs of a kind."""
    tag: str = ""
    """Folder of this run; empty: made from the prompt."""
    exp_root_dir: str = "outputs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of every draw."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`."""
    system_type: str = "dreamfusion-system"
    """The method."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be in [0, 2^63), got {self.seed}; use 0")
