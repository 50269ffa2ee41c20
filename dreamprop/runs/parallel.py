"""The block `parallel` of a config: which evaluator it comes to, and what `dreamprop.solve` is given."""

from collections.abc import Callable
from typing import Any

import dreamprop as dp
from dreamprop.config.loader import InputError
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.sharding import ShardedProcess
from dreamprop.runs.config import ParallelConfig

PLAIN = (
    "window", "tolerance", "error_rule", "threshold", "decay", "aggregate", "predictor", "on_nonfinite",
    "audit", "buffer_units",
)  # fmt: skip
"""Keys that are arguments of `dreamprop.solve` as they are."""


def evaluator_name(process: Any, parallel: ParallelConfig, communicator: Communicator) -> str:
    """The evaluator that a run uses: the one asked for, or what `parallel.evaluator: null` comes to.

    Raises:
        InputError: it would have every process do all the work.
    """
    if communicator.size > 1:
        if parallel.evaluator not in (None, "distributed"):
            raise InputError(
                f"parallel.evaluator must be distributed with {communicator.size} processes, got "
                f"{parallel.evaluator}; drop it"
            )
        return "distributed"
    if parallel.evaluator:
        return str(parallel.evaluator)
    exact = parallel.window == 1 or (parallel.error_rule == "step" and parallel.tolerance == 0)
    return "batched" if hasattr(process, "drift_window") and not exact else "serial"


def check(process: Any, parallel: ParallelConfig, communicator: Communicator) -> None:
    """See that the processes can share the work as the config says, before anything is written.

    Raises:
        InputError: they cannot.
    """
    evaluator_name(process, parallel, communicator)
    if parallel.layout == "sharded" and communicator.size > 1:
        try:
            ShardedProcess(process, communicator)
        except ValueError as error:
            raise InputError(f"parallel.layout: {error}") from None


def solve_options(process: Any, parallel: ParallelConfig, communicator: Communicator) -> dict[str, Any]:
    """The block `parallel` as keyword arguments of `dreamprop.solve`."""
    exact = parallel.error_rule == "step" and parallel.tolerance == 0
    make: dict[str, Callable[[], Any]] = {
        "serial": lambda: dp.evaluate.serial,
        "batched": lambda: dp.evaluate.batched(sub_batch=parallel.sub_batch),
        "distributed": lambda: dp.evaluate.distributed(
            layout=parallel.layout,
            sub_batch=parallel.sub_batch or (1 if exact else None),
            timeout=parallel.timeout,
        ),
    }
    options = {name: getattr(parallel, name) for name in PLAIN}
    return options | {"evaluator": make[evaluator_name(process, parallel, communicator)]()}
