"""The loop of a run: a chain solved up to a step, and what follows its rounds.

`--train`, `--baseline`, `--compare` and threestudio's systems all come here. In what they differ comes in from outside:
the process, and callbacks that save, draw, report or stop.

    run(process, window, settings, communicator, callbacks, guard=guard) -> the state arrived at

Each callback first gets what the run begins from (`on_begin`). After a round, with signals held back: the processes
agree whose `due` holds; where the whole window is at hand, every callback gets it (`on_window`); then each callback in
its order gets the round (`on_round`) and, if it was due, `on_due`. When the chain has arrived, each gets the state
(`on_end`).
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

import dreamprop as dp
from dreamprop.config.loader import InputError
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.layout import REPLICATED
from dreamprop.distributed.sharding import ShardedProcess
from dreamprop.evaluate import Evaluator
from dreamprop.evaluate.sub_batch import SmallerBatch
from dreamprop.process import as_process
from dreamprop.runs import window_log
from dreamprop.runs.config import ParallelConfig
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.solver.window_choice import FIRST, Windows
from dreamprop.state import State
from dreamprop.utils.signals import Guard

PLAIN = sorted(
    {f.name for f in fields(ParallelConfig)} & signature(dp.solve).parameters.keys() - {"evaluator", "window"}
)
"""Keys of `parallel` that are arguments of `dreamprop.solve` as they are."""


@dataclass(frozen=True)
class RunSettings:
    """How far a run goes, and in which way."""

    parallel: ParallelConfig
    """How windows are solved."""
    num_steps: int
    """The step that the run arrives at."""
    sequential: bool = False
    """Whether it goes step by step in one process, whatever `parallel` says."""

    @property
    def window(self) -> int | str:
        """Steps evaluated together, as `parallel.window` says it."""
        return 1 if self.sequential else self.parallel.window

    @property
    def label(self) -> str:
        """What a run of this way is called where it shows how far it is."""
        return "sequential" if self.sequential else f"window {self.parallel.window}"

    @property
    def warm_up(self) -> int:
        """The window of a round that is taken before a clock starts."""
        return self.window if isinstance(self.window, int) else FIRST

    @property
    def exact(self) -> bool:
        """Whether the result is promised to be the sequential run's, bit for bit, on one process."""
        proof = self.parallel.error_rule == "step" and self.parallel.tolerance == 0
        return proof or self.parallel.window == 1


class Callback:
    """Something that follows the rounds of a run; a class of this kind overrides what it needs."""

    def due(self, round: Round) -> bool | None:
        """Whether there is something to do after this round that all processes must know of.

        None, which is the default, takes no part in the agreement. Callbacks of that kind may stand on one process
        alone; all others must stand on every process, in the same order.
        """
        return None

    def on_begin(self, window: Window) -> None:
        """Take what `run` begins from."""

    def on_window(self, window: Window) -> None:
        """Take what was accepted, in the rounds in which every process has all of it."""

    def on_round(self, round: Round) -> None:
        """Take what a round did."""

    def on_due(self, round: Round) -> None:
        """Do what was due on one of the processes; called on all of them."""

    def on_end(self, state: State) -> None:
        """Take the state that `run` has arrived at."""


def run(
    process: Any,
    window: Window,
    settings: RunSettings,
    communicator: Communicator,
    callbacks: Sequence[Callback] = (),
    *,
    guard: Guard,
    windows: Windows | None = None,
    stop: int | None = None,
) -> State:
    """Solve the chain of a process up to a step.

    Args:
        process: the chain.
        window: what to begin from.
        settings: how far, and in which way.
        communicator: the processes that share the windows; each of them calls this.
        callbacks: what follows the rounds, in this order.
        guard: open, it keeps signals from cutting what the callbacks do in two.
        windows: of the rounds; by default what `parallel` says, kept nowhere.
        stop: a step on the way to stop at exactly; by default the run goes to its last step.

    Returns:
        The state at that step.

    Raises:
        InputError: the disk refused what a callback wrote.
        Interrupted: a signal asked for the end.
        NonFiniteDrift, RankFailed, RankLost: as `dreamprop.solve` has it.
    """

    def after(round: Round) -> None:
        with guard.hold():
            agreed = _agreed(callbacks, round, communicator)
            if agreed or round.layout is REPLICATED:
                whole = round.window
                for callback in callbacks:
                    callback.on_window(whole)
            for callback in callbacks:
                callback.on_round(round)
                if callback in agreed:
                    callback.on_due(round)

    last = settings.num_steps if stop is None else stop
    for callback in callbacks:
        callback.on_begin(window)
    with notes(told=communicator.rank == 0):
        if settings.sequential:
            skip = settings.parallel.on_nonfinite
            found = dp.solve_sequential(process, last, on_nonfinite=skip, state=window, callback=after)
        else:
            options = solve_options(process, settings, communicator, windows)
            found = dp.solve(process, settings.num_steps, state=window, stop=last, callback=after, **options)
    with guard.hold():
        for callback in callbacks:
            callback.on_end(found.state)
    return found.state


def evaluator_name(process: Any, settings: RunSettings, communicator: Communicator) -> str:
    """The evaluator that a run uses: the one asked for, or what `parallel.evaluator: null` comes to.

    Raises:
        InputError: it would have every process do all the work.
    """
    if settings.sequential:
        return "serial"
    asked = asked_evaluator(settings.parallel, communicator)
    return asked or dp.evaluate.default_evaluator(as_process(process), settings.exact)


def asked_evaluator(parallel: ParallelConfig, communicator: Communicator) -> str | None:
    """The evaluator that a config asks for, or that several processes need; None where neither says it.

    Raises:
        InputError: it would have every process do all the work.
    """
    if communicator.size > 1:
        if parallel.evaluator not in (None, "distributed"):
            raise InputError(
                f"parallel.evaluator must be distributed with {communicator.size} processes, "
                f"got {parallel.evaluator}; drop it"
            )
        return "distributed"
    return parallel.evaluator


def make_evaluator(name: str, parallel: ParallelConfig) -> Evaluator:
    """An evaluator by its name, with the settings of a config."""
    make: dict[str, Callable[[], Evaluator]] = {
        "serial": lambda: dp.evaluate.serial,
        "batched": lambda: dp.evaluate.batched(sub_batch=parallel.sub_batch),
        "distributed": lambda: dp.evaluate.distributed(
            layout=parallel.layout, sub_batch=parallel.sub_batch, timeout=parallel.timeout
        ),
    }
    return make[name]()


def check(process: Any, settings: RunSettings, communicator: Communicator) -> None:
    """See that the processes can share the work as the config says, before anything is written.

    Raises:
        InputError: they cannot.
    """
    evaluator_name(process, settings, communicator)
    if settings.parallel.layout == "sharded" and communicator.size > 1:
        try:
            ShardedProcess(as_process(process), communicator)
        except ValueError as error:
            raise InputError(f"parallel.layout: {error}") from None


def solve_options(
    process: Any, settings: RunSettings, communicator: Communicator, windows: Windows | None = None
) -> dict[str, Any]:
    """The block `parallel` as arguments of `dreamprop.solve`; windows that choose themselves are kept nowhere, but for
    those that are given."""
    parallel = settings.parallel
    options = {name: getattr(parallel, name) for name in PLAIN}
    options["window"] = windows or window_log.open_windows(settings.window, communicator)
    return options | {"evaluator": make_evaluator(evaluator_name(process, settings, communicator), parallel)}


def _agreed(callbacks: Sequence[Callback], round: Round, communicator: Communicator) -> list[Callback]:
    """The callbacks that are due on one of the processes."""
    wishes = [(callback, due) for callback in callbacks if (due := callback.due(round)) is not None]
    if not wishes:
        return []
    flags = communicator.any(*(due for _, due in wishes))
    return [callback for (callback, _), flag in zip(wishes, flags, strict=True) if flag]


@contextmanager
def notes(told: bool) -> Iterator[None]:
    """Have the first process tell in a line of batches that become smaller; other warnings are left as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always" if told else "ignore", category=SmallerBatch)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, SmallerBatch):
                print(f"note: {message}", file=sys.stderr)
            else:
                usual(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
