"""The settings of a run that do not depend on the method, as frozen dataclasses that check themselves.

What `dreamprop.solve` takes too has its default there, and its words where they mean something; both are read, not
written again.
"""

import math
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from omegaconf import MISSING

from dreamprop.adapters.purity import GPU_TOLERANCE
from dreamprop.config.validate import choose, number
from dreamprop.distributed.process_group import TIMEOUT
from dreamprop.evaluate import EVALUATORS
from dreamprop.evaluate.distributed import LAYOUTS
from dreamprop.runs.artifacts.config import ExportConfig, OutputConfig
from dreamprop.solver.controller import AGGREGATES, ERROR_RULES
from dreamprop.solver.nonfinite import ON_NONFINITE
from dreamprop.solver.picard import solve
from dreamprop.solver.predict import PREDICTORS

PURITY = ("strict", "warn")
"""What may become of a run whose steps turn out to be no functions of their state."""
SOLVE: dict[str, Any] = {name: given.default for name, given in signature(solve).parameters.items()}
"""The defaults of `dreamprop.solve`, by argument."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long a run is."""

    max_steps: int = 120
    """Optimiser steps."""
    deterministic: bool = False
    """Whether PyTorch takes deterministic algorithms alone: on CUDA sums come in any order otherwise, and two runs
    differ in their last bits. Slower."""

    def __post_init__(self) -> None:
        number("trainer.max_steps", self.max_steps, 1, 1e9, whole=True, remedy="use 120")


@dataclass(frozen=True)
class ParallelConfig:
    """How the chain is solved; the words are those of `dreamprop.solve`."""

    window: int | str = SOLVE["window"]
    """Steps evaluated together; 1 is the sequential run. `auto`: the run tries windows on its way and takes the
    quickest; what it decides stands in `windows.jsonl`. The folder of a run: the windows that it chose, one by one."""
    tolerance: float = SOLVE["tolerance"]
    """Largest error of an accepted guess, in nominal optimiser steps (rule `step`)."""
    error_rule: str = SOLVE["error_rule"]
    """`step`, or `paper` (arXiv:2311.17082, algorithm 1)."""
    threshold: float | None = SOLVE["threshold"]
    """First threshold of the rule `paper`, on the mean square times 1e6; null: the paper's."""
    decay: float = SOLVE["decay"]
    """How much of the threshold the rule `paper` keeps each round."""
    aggregate: str = SOLVE["aggregate"]
    """What of a window's errors moves the threshold: `median`, `mean`, or `middle` (the published code's)."""
    predictor: str = SOLVE["predictor"]
    """The guess for steps new in the window: `momentum` or `hold`."""
    evaluator: str | None = None
    """`batched` (all states of a window in one evaluation), `serial`, `distributed` (every process its part), or
    null: distributed under torchrun; else batched, but serial where the rounding of a batch would break a promise
    (`window: 1` and `tolerance: 0`)."""
    sub_batch: int | None = None
    """States in one batch at most; null: all of a device's share."""
    layout: str = LAYOUTS[0]
    """Where states live on several processes: `replicated` (everywhere) or `sharded` (a part of each tensor on each
    process: less memory and less to send)."""
    on_nonfinite: str = SOLVE["on_nonfinite"]
    """What a drift that is not finite does: `stop`, or `skip` its update as a gradient scaler does, and count it."""
    audit: float = SOLVE["audit"]
    """Share of the accepted steps whose drift is evaluated again at the state that was accepted, to report what the
    tolerance gave up; 0: none."""
    buffer_units: dict[str, float] = field(default_factory=dict)
    """By name or pattern of a buffer, the relative difference that counts as one nominal step (0.1 by default; `.inf`
    leaves it out), as in `{"*.occs": .inf}`."""
    purity: str = PURITY[0]
    """What becomes of a run when a step of a threestudio system is found to be no function of its state: `strict` ends
    it, `warn` says so and goes on."""
    purity_tolerance: float = GPU_TOLERANCE
    """Relative difference that two evaluations of a step may have on a GPU, where sums come in any order; on a CPU they
    must be equal."""
    timeout: float = TIMEOUT
    """Seconds that another process may be silent before it is named and the run ends."""

    def __post_init__(self) -> None:
        key = "parallel"
        if not isinstance(self.window, str):
            number(
                f"{key}.window", self.window, 1, 1e6, whole=True, remedy="use auto, or 1 to run sequentially"
            )
        number(f"{key}.tolerance", self.tolerance, 0, remedy="use 1.0")
        if self.threshold is not None:
            number(f"{key}.threshold", self.threshold, 0, remedy="use null for the paper's")
        number(f"{key}.decay", self.decay, 0, 1, remedy="use 0.9, or 1 to keep the threshold where it is")
        if self.sub_batch is not None:
            number(f"{key}.sub_batch", self.sub_batch, 1, 1e6, whole=True, remedy="use null for all states")
        number(f"{key}.audit", self.audit, 0, 1, remedy="use 0 for none")
        for name, unit in self.buffer_units.items():
            if unit != math.inf:
                number(
                    f"{key}.buffer_units of {name}", unit, 0, above=True, remedy="use .inf to leave it out"
                )
        number(f"{key}.purity_tolerance", self.purity_tolerance, 0, 1, remedy=f"use {GPU_TOLERANCE}")
        number(f"{key}.timeout", self.timeout, 0, 1e7, above=True, unit="seconds", remedy="use 600")
        choose(self.error_rule, list(ERROR_RULES), "parallel.error_rule")
        if self.error_rule == "paper":  # which a tolerance of 0, the proof, cannot come with
            number("parallel.tolerance", self.tolerance, 0, above=True, remedy="use parallel.error_rule=step")
        choose(self.aggregate, list(AGGREGATES), "parallel.aggregate")
        choose(self.predictor, list(PREDICTORS), "parallel.predictor")
        if self.evaluator is not None:
            choose(self.evaluator, list(EVALUATORS), "parallel.evaluator")
        choose(self.layout, LAYOUTS, "parallel.layout")
        choose(self.on_nonfinite, list(ON_NONFINITE), "parallel.on_nonfinite")
        choose(self.purity, PURITY, "parallel.purity")


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
        key = "checkpoint"
        steps, seconds = self.every_n_train_steps, self.train_time_interval
        number(f"{key}.every_n_train_steps", steps, 0, 1e9, whole=True, remedy="use 0 for none")
        number(f"{key}.train_time_interval", seconds, 0, 1e9, unit="seconds", remedy="use 0 for none")
        number(f"{key}.keep", self.keep, 1, 1e6, whole=True, remedy="use 1 for the newest only")


@dataclass(frozen=True)
class RunConfig:
    """What every run has."""

    name: str = MISSING
    """Folder of runs of a kind."""
    tag: str = ""
    """Folder of this run; empty: made from the prompt."""
    exp_root_dir: str = "outputs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of every draw."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`."""
    system_type: str = MISSING
    """The method, by the name that threestudio has for its system."""

    def __post_init__(self) -> None:
        number("seed", self.seed, 0, 2**63, whole=True, below=True, remedy="use 0")


@dataclass(frozen=True)
class ExperimentConfig(RunConfig):
    """A whole run; `experiment.schema` adds the blocks `data` and `system` of the method."""

    name: str = "dreamfusion"
    system_type: str = "dreamfusion-system"
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
