"""Where the steps of a window meet: calls of frozen networks wait for one another and are answered together.

Each step runs in a thread of its own on its own copy of the system, and only one thread runs at a time: it has
the process's generators to itself, and hands on when it calls a frozen network or ends. Threads rather than
greenlets, because whether gradients are recorded, and in which precision, is kept by PyTorch for each thread.

A network may be entered by any method: a diffusion model by ``forward``, an autoencoder by ``decode``, which calls
modules inside it. Steps meet at the outermost of its modules that is called: there everything is tensors.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from dreamprop.threestudio.batched_call import Call, Mixed, compare, form, join_calls

T = TypeVar("T")

ALONE = object()
"""The answer to a call that the step is to make by itself."""


class Cancelled(BaseException):
    """Ends a step that waits, when another one has failed."""


@dataclass
class Step(Generic[T]):
    """A step that is being evaluated, in a thread of its own."""

    task: Callable[[], T]
    draws: Any
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    handed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    call: Call | None = None
    answer: Any = None
    inside: bool = False
    """Whether it is in a frozen network by itself: what is called in there does not wait."""
    parted: bool = False
    future: Future[T] | None = None


class CallBatcher:
    """Runs the steps of a window together, so that each frozen network is run once for all of them.

    Args:
        networks: frozen; the steps meet where modules of theirs are called without gradients.
        device: of the steps; which GPU is the current one is kept for each thread.
    """

    def __init__(self, networks: Iterable[nn.Module], device: torch.device | None = None) -> None:
        self._modules = list({id(m): m for network in networks for m in network.modules()}.values())
        self._device = device
        self._mine = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._forms: dict[Any, Any] = {}
        """Of the answer to a call alone, by the key of those that were joined."""
        self._mixed: set[int] = set()
        """Ids of modules that do not answer row by row."""
        self.calls = 0
        """How many calls have waited for others."""
        self.runs = 0
        """How many times a network was run for such calls."""

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of tasks that run in turns and meet at the networks.

        What a task raises ends them all.
        """
        if self._pool is None or self._pool._max_workers < len(tasks):
            if self._pool is not None:
                self._pool.shutdown()
            self._pool = ThreadPoolExecutor(len(tasks), "step", self._enter)
        before = _draws()
        steps = [Step(task, before) for task in tasks]
        with self._open():
            try:
                for step in steps:
                    step.future = self._pool.submit(self._follow, step)
                while True:
                    for step in steps:
                        if step.future is not None and not step.future.done():
                            self._turn(step)
                    waiting = [step for step in steps if step.call is not None]
                    if not waiting:
                        break
                    self._answer(waiting)
            finally:
                left = [step.future for step in steps if step.future is not None]
                # those still on their way, because another one failed, end where they wait
                for step in steps:
                    step.parted = True
                    step.turn.release()
                wait(left)
                _put(before)
        return [step.future.result() for step in steps if step.future is not None]

    def _enter(self) -> None:
        """Called in each thread as it begins: make the device of the steps the current one there."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _follow(self, step: Step[T]) -> T:
        """Called in the step's thread: wait for its turn, run it, and hand on at its end."""
        step.turn.acquire()
        self._mine.step = step
        try:
            if step.parted:
                raise Cancelled
            return step.task()
        finally:
            self._mine.step = None
            step.handed.release()

    def _turn(self, step: Step[Any]) -> None:
        """Let a step run until it calls a network, or ends."""
        _put(step.draws)
        step.turn.release()
        step.handed.acquire()
        step.draws = _draws()
        if step.call is None and step.future is not None:
            step.future.result()  # it ended: what it raised is raised here

    def _answer(self, waiting: list[Step[Any]]) -> None:
        """Run each network once for all calls that are alike."""
        groups: dict[Any, list[tuple[Step[Any], Call]]] = {}
        for step in waiting:
            call, step.call = step.call, None
            assert call is not None
            groups.setdefault(call.key, []).append((step, call))
        for group in groups.values():
            answers = self._join([call for _, call in group])
            for (step, _), answer in zip(group, answers, strict=True):
                step.answer = answer

    def _join(self, calls: list[Call]) -> list[Any]:
        """The answers of calls that are alike; each step is to make its own where they cannot be joined."""
        network, key = calls[0].network, calls[0].key
        if len(calls) > 1 and id(network) not in self._mixed:
            try:
                answers = join_calls(calls, self._forms[key]) if key in self._forms else self._try(calls)
                self.runs += 1
                return answers
            except Mixed as mixed:
                self._mixed.add(id(network))
                kind = type(network).__name__
                print(f"steps of a window do not share their calls of {kind}: {mixed}", file=sys.stderr)
        self.runs += len(calls)
        return [ALONE] * len(calls)

    def _try(self, calls: list[Call]) -> list[Any]:
        """The answers from one run, the first time that such calls are joined: one is held against its own.

        Raises:
            Mixed: the network does not answer row by row, or draws.
        """
        before = _draws()
        own = calls[0].run()
        self.runs += 1
        like = form(own)
        try:
            answers = join_calls(calls, like)
        except (Mixed, torch.OutOfMemoryError):
            raise
        except Exception as error:  # it has no objection to the call alone
            raise Mixed(f"{type(error).__name__}: {error}") from error
        compare(own, answers[0])
        if not _same(before, _draws()):
            raise Mixed("it draws random numbers")
        self._forms[calls[0].key] = like
        return answers

    @contextmanager
    def _open(self) -> Iterator[None]:
        """While it is open, a step that calls a module of the networks waits for the others."""
        before = [vars(module).get("forward") for module in self._modules]
        for module in self._modules:
            vars(module)["forward"] = self._waiting(module, module.forward)
        try:
            yield
        finally:
            for module, forward in zip(self._modules, before, strict=True):
                if forward is None:
                    del vars(module)["forward"]  # the class's own shows again
                else:
                    vars(module)["forward"] = forward

    def _waiting(self, network: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            step: Step[Any] | None = getattr(self._mine, "step", None)
            if step is None or step.inside:
                return forward(*args, **kwargs)
            call = None if id(network) in self._mixed else Call.of(network, forward, args, kwargs)
            if call is None or self._wait(step, call) is ALONE:
                step.inside = True
                try:
                    return forward(*args, **kwargs)
                finally:
                    step.inside = False
            answer, step.answer = step.answer, None
            return answer

        return inner

    def _wait(self, step: Step[Any], call: Call) -> Any:
        """Hand on, and have the answer when it is this step's turn again."""
        self.calls += 1
        step.call = call
        step.handed.release()
        step.turn.acquire()
        if step.parted:
            raise Cancelled
        return step.answer


def _draws() -> Any:
    """The state of the process's generators: torch's on the CPU and on GPUs, numpy's and Python's."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _put(draws: Any) -> None:
    torch.set_rng_state(draws[0])
    if draws[1]:
        torch.cuda.set_rng_state_all(draws[1])
    np.random.set_state(draws[2])
    random.setstate(draws[3])


def _same(some: Any, others: Any) -> bool:
    """Whether the generators have been left alone; their states are on the CPU."""
    torchs = zip([some[0], *some[1]], [others[0], *others[1]], strict=True)
    numpys = all(np.array_equal(a, b) for a, b in zip(some[2], others[2], strict=True))
    return all(torch.equal(a, b) for a, b in torchs) and numpys and bool(some[3] == others[3])
