"""Lightning's ``Trainer.fit`` with the training epoch solved instead of stepped through.

Everything around the steps stays Lightning's: building, moving and restoring the system, validation at its
interval, checkpoints, loggers, the end of the run. One ``advance`` of its loop solves up to the next step at
which something of that is due, and leaves system, optimiser, schedule, scaler and counters as if it had stepped.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from dreamprop.solver.window import Window
from dreamprop.state import State, equal
from dreamprop.threestudio import hooks
from dreamprop.threestudio.checkpoint import ENTRY, entry, plain, restored
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.extra_state import numbers
from dreamprop.threestudio.precision import GROWTH, SCALE, step_settings
from dreamprop.threestudio.system import Threestudio, optimizers

Solve = Callable[[Threestudio, Window, int, Callable[[Window], None]], None]
"""Solves up to a step. Takes the process, the window to go on from, the step, and a function that is called after every
round with the window that was reached."""


def solved(
    trainer: Any,
    system: Any,
    seed: int,
    solve: Solve,
    ready: Callable[[Threestudio, State], None],
    agree: Callable[[int], int] = int,
    share: Callable[[State], State] = lambda state: state,
) -> None:
    """Make the ``fit`` of a trainer solve the chain of a system.

    Args:
        trainer: a Lightning trainer, before ``fit``.
        system: what it will fit.
        seed: of the draws.
        solve: runs the chain.
        ready: called once, before the first step; what it raises ends the run.
        agree: makes of the step at which this trainer has something to do the one at which all processes stop.
        share: makes of the state that this trainer's validation has left the one that all processes go on from.

    Raises:
        NotAChain: the system has hooks that would be passed over, or the trainer is not told where to stop.
    """
    from pytorch_lightning.callbacks import LambdaCallback
    from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

    if not trainer.max_steps or trainer.max_steps < 0:
        raise NotAChain(f"trainer.max_steps must be > 0, got {trainer.max_steps}; say where the run ends")
    hooks.check(system)
    fresh = _remember_optimizers(system)
    loaded: list[Any] = []
    made: dict[str, Any] = {}

    class Chain(_TrainingEpochLoop):  # type: ignore[misc, unused-ignore]
        """Lightning's loop over the batches of an epoch, which advances by solving."""

        process: Threestudio | None = None
        reached: Any = None

        def advance(self, data_fetcher: Any) -> None:
            if self.process is None:
                hooks.check(system, trainer.callbacks)
                self.process = _process(trainer, system, seed, fresh)
                found = loaded.pop() if loaded else None
                self.reached, dropped = restored(found, resumed(self.process, trainer), made)
                if dropped and trainer.is_global_zero:
                    print(f"note: the guesses of the checkpoint are not used: {dropped}", file=sys.stderr)
                _check_options(self.process, trainer.optimizers[0], trainer.global_step)
                ready(self.process, self.reached.states[0])
            else:
                system.train()  # as before Lightning 2.2, which leaves what follows a mode in the other one
                state = share(resumed(self.process, trainer))
                self.reached = _changed(self.reached, state)
                _check_options(self.process, trainer.optimizers[0], state.step)
            process, begun = self.process, self.reached.states[0].step

            def accept(reached: Window) -> None:
                self.reached = reached

            try:
                solve(process, self.reached, agree(_next(trainer, begun)), accept)
            finally:  # an interrupted run is left at the last step that was accepted
                self.arrive(self.reached.states[0].step - begun)
            last = trainer.accumulate_grad_batches * self.reached.states[0].step - 1
            for callback in trainer.callbacks:
                callback.on_train_batch_end(trainer, system, None, None, last)
            _count(self.batch_progress, 1, "completed")

        def arrive(self, steps: int) -> None:
            """Leave system, optimiser and Lightning's counters as if so many steps had been taken."""
            assert self.process is not None
            commit(self.process, self.reached.states[0], trainer)
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

    def save(trainer: Any, system: Any, checkpoint: dict[str, Any]) -> None:
        for part in ("optimizer_states", "lr_schedulers"):
            checkpoint[part] = plain(checkpoint.get(part, []))
        if chain.process is not None and chain.reached is not None:
            checkpoint[ENTRY] = entry(chain.reached, made, chain.process.replica.attributes)

    def load(trainer: Any, system: Any, checkpoint: dict[str, Any]) -> None:
        loaded[:] = [checkpoint.get(ENTRY)]

    def begin(*_: Any) -> None:
        if not made:  # before a validation tells the parts which step it is
            made.update(numbers(system))

    trainer.callbacks.append(
        LambdaCallback(
            on_sanity_check_start=begin,
            on_train_start=begin,
            on_save_checkpoint=save,
            on_load_checkpoint=load,
        )
    )
    chain = Chain(trainer, trainer.min_steps, trainer.max_steps)
    trainer.fit_loop.epoch_loop = chain


def _changed(reached: Window, state: State) -> Window:
    """What a run goes on from where something else, validation mostly, may have written in between.

    What that wrote counts, as it does in Lightning. Guesses of what lies ahead are guesses still, unless they follow
    parameters or moments that are no longer there.
    """
    base = reached.states[0]
    moved = (
        State(state.params, state.moments, {}, state.step),
        State(base.params, base.moments, {}, base.step),
    )
    return replace(reached, states=(state, *(reached.states[1:] if equal(*moved) else ())))


def resumed(process: Threestudio, trainer: Any) -> State:
    """The state of a trainer's system and optimiser, at the trainer's step."""
    step = trainer.global_step
    params, buffers = process.replica.read()
    moments = process.stepper.read(trainer.optimizers[0], step)
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if process.settings.scaling is not None and scaler is not None:
        buffers[SCALE] = torch.tensor(scaler.get_scale())
        tracker = scaler.state_dict().get("_growth_tracker", 0)
        buffers[GROWTH] = torch.tensor(int(tracker), dtype=torch.int32)
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


def _check_options(process: Threestudio, optimizer: torch.optim.Optimizer, step: int) -> None:
    """See that the optimiser's options are those that the next steps will be taken with.

    Raises:
        NotAChain: a checkpoint brought others, or something has set them between the steps.
    """
    for index, group in enumerate(process.stepper.options(step)):
        now = optimizer.param_groups[index]
        for key in ("lr", "weight_decay", "betas"):
            ours, theirs = (
                torch.as_tensor(known.get(key, 0.0), dtype=torch.float64).tolist() for known in (group, now)
            )
            if ours != theirs:
                raise NotAChain(
                    f"{key} of the optimiser's group {group.get('name', index)} must be {ours} at step {step}, as "
                    f"system.optimizer and system.scheduler have it, got {theirs} from the checkpoint or from a hook "
                    "between the steps; give that in the config, or begin without the checkpoint"
                )


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
        settings=step_settings(trainer),
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
