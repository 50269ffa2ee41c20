"""Lightning's ``Trainer.fit`` with the training epoch solved instead of stepped through.

Everything around the steps stays Lightning's: building, moving and restoring the system, validation at its
interval, checkpoints, loggers, the end of the run. One ``advance`` of its loop solves up to the next step at
which something of that is due, and leaves system, optimiser, schedule, scaler and counters as if it had stepped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch

from dreamprop.state import State
from dreamprop.threestudio.checkpoint import plain
from dreamprop.threestudio.system import Threestudio, optimizers
from dreamprop.threestudio.terms import GROWTH, SCALE, terms_of

Solve = Callable[[Threestudio, State, int, Callable[[State], None]], State]
"""(process, state, step to arrive at, told of every accepted state) to the state there."""


def solved(
    trainer: Any,
    system: Any,
    seed: int,
    solve: Solve,
    ready: Callable[[Threestudio, State], None],
    agree: Callable[[int], int] = int,
) -> None:
    """Make the ``fit`` of a trainer solve the chain of a system.

    Args:
        trainer: a Lightning trainer, before ``fit``.
        system: what it will fit.
        seed: of the draws.
        solve: runs the chain.
        ready: called once, before the first step; what it raises ends the run.
        agree: makes of the step at which this trainer has something to do the one at which all processes stop.

    Raises:
        ValueError: the trainer is to stop at something else than a number of steps.
    """
    from pytorch_lightning.callbacks import LambdaCallback
    from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

    if not trainer.max_steps or trainer.max_steps < 0:
        raise ValueError(f"trainer.max_steps must be > 0, got {trainer.max_steps}; say where the run ends")
    if trainer.limit_train_batches not in (1.0, None):
        raise ValueError(
            f"trainer.limit_train_batches must be left out, got {trainer.limit_train_batches}; use max_steps"
        )
    fresh = _remember_optimizers(system)

    class Chain(_TrainingEpochLoop):  # type: ignore[misc, unused-ignore]
        """Lightning's loop over the batches of an epoch, which advances by solving."""

        process: Threestudio | None = None

        def advance(self, data_fetcher: Any) -> None:
            if self.process is None:
                self.process = _process(trainer, system, seed, fresh)
                self.reached = resumed(self.process, trainer)
                ready(self.process, self.reached)
            process, begun = self.process, self.reached.step

            def accept(state: State) -> None:
                self.reached = state

            try:
                self.reached = solve(process, self.reached, agree(_next(trainer, begun)), accept)
            finally:  # an interrupted run is left at the last step that was accepted
                self.arrive(self.reached.step - begun)
            last = trainer.accumulate_grad_batches * self.reached.step - 1
            for callback in trainer.callbacks:
                callback.on_train_batch_end(trainer, system, None, None, last)
            _count(self.batch_progress, 1, "completed")

        def arrive(self, steps: int) -> None:
            """Leave everything as if so many steps had been taken."""
            assert self.process is not None
            commit(self.process, self.reached, trainer)
            batches = steps * trainer.accumulate_grad_batches
            _count(self.batch_progress, batches, "ready", "started", "processed")
            _count(
                self.batch_progress, max(batches - 1, 0), "completed"
            )  # the last one is, behind the callbacks
            progress = self.automatic_optimization.optim_progress.optimizer
            _count(progress.step, steps, "ready", "completed")
            _count(progress.zero_grad, steps, "ready", "started", "completed")
            if trainer.lr_scheduler_configs:
                _count(self.scheduler_progress, steps, "ready", "completed")
            self._batches_that_stepped += max(steps - 1, 0)  # the loop counts one more itself

    def written(trainer: Any, system: Any, checkpoint: dict[str, Any]) -> None:
        for part in ("optimizer_states", "lr_schedulers"):
            checkpoint[part] = plain(checkpoint.get(part, []))

    trainer.callbacks.append(LambdaCallback(on_save_checkpoint=written))
    trainer.fit_loop.epoch_loop = Chain(trainer, trainer.min_steps, trainer.max_steps)


def resumed(process: Threestudio, trainer: Any) -> State:
    """The state of a trainer's system and optimiser, at the trainer's step."""
    step = trainer.global_step
    params, buffers = process.replica.read()
    moments = process.stepper.read(trainer.optimizers[0], step)
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    begun = process.init().buffers
    if process.terms.scaling is not None and scaler is not None:
        buffers[SCALE] = torch.tensor(scaler.get_scale())
        tracker = scaler.state_dict().get("_growth_tracker", 0)
        buffers[GROWTH] = torch.tensor(int(tracker), dtype=torch.int32)
    assert begun.keys() == buffers.keys()
    return State(params, moments, buffers, step)


def commit(process: Threestudio, state: State, trainer: Any) -> None:
    """Write a state into a trainer's system, optimiser, schedule and scaler."""
    process.commit(state)
    plans = trainer.lr_scheduler_configs
    scheduler = plans[0].scheduler if plans and plans[0].interval == "step" else None
    process.stepper.write(trainer.optimizers[0], scheduler, state.moments, state.step)
    if SCALE in state.buffers:
        scaler = trainer.precision_plugin.scaler
        known = scaler.state_dict()
        known |= {"scale": float(state.buffers[SCALE]), "_growth_tracker": int(state.buffers[GROWTH])}
        scaler.load_state_dict(known)


def _count(progress: Any, more: int, *fields: str) -> None:
    """Count further in a progress of Lightning's, of this run and of all."""
    for tracker in (progress.total, progress.current):
        for field in fields:
            setattr(tracker, field, getattr(tracker, field) + more)


def _process(trainer: Any, system: Any, seed: int, fresh: list[Any]) -> Threestudio:
    system.train()
    return Threestudio(
        system,
        trainer.train_dataloader,
        seed=seed,
        terms=terms_of(trainer),
        made=optimizers(system, fresh[0]),
        datamodule=trainer.datamodule,
        trainer=trainer,
    )


def _remember_optimizers(system: Any) -> list[Any]:
    """A list that will hold what ``configure_optimizers`` gave, before a checkpoint is read into it."""
    given = system.configure_optimizers
    fresh: list[Any] = []

    def configure_optimizers() -> Any:
        made = given()
        if not fresh:
            same = {id(p): p for p in system.parameters()}
            fresh.append(copy.deepcopy(made, dict(same)))
        return made

    system.configure_optimizers = configure_optimizers
    return fresh


def _next(trainer: Any, step: int) -> int:
    """The next step at which Lightning has something to do, or the last."""
    accumulate = trainer.accumulate_grad_batches
    every = [callback._every_n_train_steps for callback in trainer.checkpoint_callbacks]
    if isinstance(trainer.val_check_batch, int) and trainer.enable_validation:
        every.append(math.lcm(trainer.val_check_batch, accumulate) // accumulate)
    due = [(step // n + 1) * n for n in every if n and n > 0]
    return int(min([trainer.max_steps, *due]))
