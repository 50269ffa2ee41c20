"""A threestudio system as a process, as it is: no line of it is changed, and none is needed from it.

State: the parameters that its optimiser trains, by name, with their moments; its persistent buffers, the
occupancy grid among them; the numbers and tensors that its parts keep in plain attributes; the gradient
scaler. Schedules follow from the step. What a step draws comes from (seed, step).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dreamprop.adapters.call_batcher import CallBatcher
from dreamprop.adapters.torch_optimizer import FunctionalOptimizer
from dreamprop.process import Group, Process, buffer_distance
from dreamprop.state import Drift, State
from dreamprop.threestudio import hooks
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.extra_state import NUMBERS, after, numbers_distance
from dreamprop.threestudio.precision import SCALE, StepSettings, rescale, scaler_state
from dreamprop.threestudio.replica import EMPTY, OVERFLOW, Replica
from dreamprop.threestudio.replicate import frozen_networks
from dreamprop.threestudio.trainer_proxy import TrainerProxy

AVERAGES = 0.2
"""Weight of nerfacc's running averages (`occs`) beside what they say is occupied (`binaries`)."""


@dataclass(frozen=True)
class StepLog:
    """What an accepted step logged."""

    step: int
    """The step."""
    metrics: dict[str, float]
    """What the system logged in it, by name."""
    empty: bool
    """Whether a render of it had no samples."""


class Threestudio(Process):
    """A threestudio system as a process, the chain of its training steps.

    Args:
        system: built as threestudio's launch builds it, in training mode, after ``on_fit_start``.
        loader: the training data loader.
        seed: of the draws; not of the weights, which the system has.
        settings: what the trainer's settings ask of a step.
        made: the optimiser and its scheduler, made before ``on_fit_start`` as Lightning does; made now by default.
        datamodule: where the loader comes from.
        trainer: the real one, for what a system may ask of it.

    Raises:
        NotAChain: the system cannot be run as a chain; one line says why.
    """

    def __init__(
        self,
        system: Any,
        loader: Any,
        *,
        seed: int = 0,
        settings: StepSettings | None = None,
        made: tuple[torch.optim.Optimizer, Any] | None = None,
        datamodule: Any = None,
        trainer: Any = None,
    ) -> None:
        hooks.check(system)
        self.settings, self.seed, self.system = settings or StepSettings(), seed, system
        optimizer, scheduler = made or optimizers(system)
        names, labels = groups_of(system, optimizer)
        self.stepper = FunctionalOptimizer(optimizer, scheduler, names, labels)
        proxy = TrainerProxy(loader, datamodule, trainer, self.stepper)
        self.names = [name for group in names for name in group]
        """The names of the parameters that are trained."""
        self.replica = Replica(system, loader, self.names, self.settings, seed, proxy)
        self.unbatched_reason = ""
        """Why states are evaluated one by one, once that is known."""
        self._batcher: CallBatcher | None = None
        self._frozen: list[torch.nn.Module] = []
        self._replicas = [self.replica]
        self.logged: dict[int, tuple[dict[str, Tensor], bool]] = {}
        """By step, of the drift that an update was last made with: what the system logged, and whether a render had no
        samples."""

    def init(self) -> State:
        """The state of the system as it is now, entering step 0."""
        params, buffers = self.replica.read()
        return State(params, self.stepper.init(), buffers | scaler_state(self.settings.scaling), 0)

    def drift(self, state: State) -> Drift:
        """The gradients at a state, and what the step did to its buffers; see ``Replica.evaluate``."""
        return self._told([self.replica.evaluate(state)])[0]

    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """The drifts of several states, their calls of frozen networks answered together.

        A system whose steps never meet there is evaluated one by one, and says so once.
        """
        if self._batcher is None and not self.unbatched_reason:
            self.unbatched_reason = self._enable_batching()
        if self._batcher is None:
            return self._told([self.replica.evaluate(state) for state in states])
        while len(self._replicas) < len(states):
            self._replicas.append(self.replica.copy(self._frozen))
        tasks = [partial(one.evaluate, state) for one, state in zip(self._replicas, states, strict=False)]
        calls = self._batcher.calls
        try:
            drifts = self._batcher.run(tasks)
        except torch.OutOfMemoryError:  # the copies make room for a smaller window
            del self._replicas[1:]
            raise
        if self._batcher.calls == calls:
            self._disable_batching("no step called a frozen network without gradients")
        return self._told(drifts)

    def _told(self, drifts: list[Drift]) -> list[Drift]:
        """The drifts with their overflow flags, by which updates decide, read to the CPU once for all of them."""
        flags = [drift.aux[OVERFLOW] for drift in drifts if OVERFLOW in drift.aux]
        if not flags:
            return drifts
        read = torch.stack(flags).cpu()
        return [replace(d, aux={**d.aux, OVERFLOW: flag}) for d, flag in zip(drifts, read, strict=True)]

    def _enable_batching(self) -> str:
        """Make the system ready to be evaluated at several states together.

        Returns:
            Why that cannot be; empty if it can.
        """
        self._frozen = frozen_networks(self.system, self.replica.trained)
        if not self._frozen:
            return self._disable_batching("it holds no frozen network")
        try:
            self._replicas = [self.replica, self.replica.copy(self._frozen)]
        except Exception as error:
            return self._disable_batching(f"it cannot be copied ({type(error).__name__}: {error})")
        self._batcher = CallBatcher(self._frozen, self.replica.device)
        return ""

    def _disable_batching(self, reason: str) -> str:
        self.unbatched_reason, self._batcher, self._replicas = reason, None, [self.replica]
        print(f"states of this system are evaluated one by one: {' '.join(reason.split())}", file=sys.stderr)
        return reason

    def update(self, state: State, drift: Drift) -> State:
        """The optimiser on copies, with the options of this step; buffers moved by what the drift changed."""
        overflow = bool(drift.aux[OVERFLOW]) if OVERFLOW in drift.aux else False
        if overflow:  # as torch.amp.GradScaler does: this step is not taken
            params, moments = state.params, state.moments
        else:
            params, moments = self.stepper.update(
                state.params, state.moments, drift.grads, state.step, self.settings.clipper(drift.grad_norm)
            )
        buffers = dict(state.buffers)
        for name, write in drift.writes.items():
            buffers[name] = after(name, buffers[name], write)
        buffers |= rescale(buffers, self.settings.scaling, overflow)
        self.logged[state.step] = (drift.metrics, EMPTY in drift.aux)
        return State(params, moments, buffers, state.step + 1)

    def arrived(self, state: State, drift: Drift) -> dict[str, Tensor]:
        """The parameters that the update of a state by a drift arrives at; nothing is logged."""
        logged = dict(self.logged)
        params = self.update(state, drift).params
        self.logged = logged
        return params

    @property
    def replicas(self) -> Sequence[Replica]:
        """The copies of the system that steps are evaluated on, the system itself first."""
        return self._replicas

    def witness(self) -> Replica | None:
        """A copy of the system as it is now, for comparison; ``None`` where it cannot be copied."""
        try:
            return self.replica.copy(frozen_networks(self.system, self.replica.trained))
        except Exception:  # whatever its parts raise: `_enable_batching` tells
            return None

    def predict(self, state: State) -> State:
        """One step along the momentum; buffers stay, and the scaler counts a step that did not overflow."""
        params, moments = self.stepper.predict(state.params, state.moments, state.step)
        buffers = state.buffers
        if SCALE in buffers:
            buffers = buffers | rescale(buffers, self.settings.scaling, False)
        return State(params, moments, buffers, state.step + 1)

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's groups, in units of their learning rates; see ``FunctionalOptimizer.groups``."""
        return self.stepper.groups(step)

    def buffer_distance(self, name: str, rolled_out: Tensor, guessed: Tensor) -> Tensor:
        """How far two buffers differ; of the numbers in plain attributes, the one that differs most counts.

        The averages behind an occupancy grid count a fifth: a step reads what is occupied, and the averages only
        where the grid is made anew.
        """
        if name == NUMBERS:
            return numbers_distance(rolled_out, guessed)
        grid = name.endswith(".occs") and rolled_out.is_floating_point()
        return buffer_distance(rolled_out, guessed) * (AVERAGES if grid else 1.0)

    def elementwise(self, step: int) -> bool:
        """Whether the optimiser moves every element by its own gradient and moments alone, as layout ``sharded`` asks.

        Raises:
            ValueError: it does not, or is not known to.
        """
        return self.stepper.elementwise()

    def commit(self, state: State) -> None:
        """Put the system into a state, as if it had been trained up to it."""
        self.replica.write(state)

    def occupied(self, state: State) -> int | None:
        """How many cells the occupancy grids of a state say are occupied; ``None`` where there is no grid."""
        grids = [grid.sum() for name, grid in state.buffers.items() if name.endswith("binaries")]
        return int(torch.stack(grids).sum()) if grids else None

    def take_log(self, step: int) -> list[StepLog]:
        """What was logged in steps before this one and has not been taken yet, in the order of the steps."""
        due = [(t, *self.logged.pop(t)) for t in sorted(self.logged) if t < step]
        logged = [value for _, metrics, _ in due for value in metrics.values()]
        read = iter(torch.stack(logged).tolist() if logged else [])  # from the device once for all of them
        return [StepLog(t, {name: next(read) for name in metrics}, empty) for t, metrics, empty in due]


def optimizers(system: Any, made: Any = None) -> tuple[torch.optim.Optimizer, Any]:
    """The one optimiser of a system and the scheduler that is stepped with it, if there is one.

    Args:
        system: asked for them.
        made: what it gave earlier.

    Raises:
        NotAChain: there are several, or the schedule needs more than the step.
    """
    if not getattr(system, "automatic_optimization", True):
        raise NotAChain(
            "system must leave the optimiser to the trainer, got automatic_optimization = False; it steps "
            "optimisers inside training_step, so a step is no function of its state: run it in threestudio"
        )
    made = system.configure_optimizers() if made is None else made
    if isinstance(made, torch.optim.Optimizer):
        return made, None
    if not isinstance(made, Mapping):
        raise NotAChain(
            f"configure_optimizers must give one optimiser, got {type(made).__name__}; run it in threestudio"
        )
    plan = made.get("lr_scheduler")
    if plan is None:
        return made["optimizer"], None
    if not isinstance(plan, Mapping):
        return made["optimizer"], None  # Lightning steps a bare one once an epoch, which never ends
    if plan.get("interval", "epoch") == "epoch":
        return made["optimizer"], None
    if int(plan.get("frequency", 1)) != 1:
        raise NotAChain(f"scheduler frequency must be 1, got {plan['frequency']}; run it in threestudio")
    return made["optimizer"], plan["scheduler"]


def groups_of(system: Any, optimizer: torch.optim.Optimizer) -> tuple[list[list[str]], list[str]]:
    """Names of the parameters in an optimiser's groups, and labels of the groups.

    Raises:
        NotAChain: a parameter is not the system's.
    """
    by_id = {id(p): name for name, p in system.named_parameters()}
    names: list[list[str]] = []
    labels: list[str] = []
    for index, group in enumerate(optimizer.param_groups):
        label = str(group.get("name", index))
        missing = sum(id(p) not in by_id for p in group["params"])
        if missing:
            raise NotAChain(
                f"optimiser group {label!r} must hold parameters of the system, got {missing} others; "
                "they would not be saved in a checkpoint either"
            )
        names.append([by_id[id(p)] for p in group["params"]])
        labels.append(label if label not in labels else f"{label}.{index}")
    return names, labels
