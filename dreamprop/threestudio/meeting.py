"""Where the steps of a window meet: calls of a frozen network wait for one another and are answered together.

Each step runs in a thread of its own on its own copy of the system, and only one thread runs at a time: it has
the process's generators to itself, and hands on when it calls the frozen network or ends. Threads rather than
greenlets, because whether gradients are recorded, and in which precision, is kept by PyTorch for each thread.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

T = TypeVar("T")


class Parted(BaseException):
    """Ends a step that waits, when another one has failed."""


@dataclass
class Call:
    """A call of a network by one step."""

    network: nn.Module
    forward: Callable[..., Any]
    leaves: list[Any]
    spec: Any
    context: tuple[str, bool, torch.dtype]
    """Autocast where it was called from."""

    @property
    def size(self) -> int:
        """Elements of its batch."""
        return next(len(leaf) for leaf in self.leaves if isinstance(leaf, Tensor) and leaf.dim())

    @property
    def key(self) -> Any:
        """Calls of equal keys can be answered together."""
        size = self.size
        shapes = []
        for leaf in self.leaves:
            if not isinstance(leaf, Tensor):
                shapes.append(repr(leaf))
            elif leaf.dim() == 0:
                shapes.append(f"scalar {leaf.dtype}")
            elif len(leaf) == size:
                shapes.append(f"batch {tuple(leaf.shape[1:])} {leaf.dtype} {leaf.device}")
            else:  # not one row an element: only with itself
                return id(self)
        return (id(self.network), str(self.spec), tuple(shapes), self.context)


@dataclass
class Step(Generic[T]):
    """One step on its way."""

    task: Callable[[], T]
    draws: Any
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    handed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    call: Call | None = None
    answer: Any = None
    parted: bool = False
    future: Future[T] | None = None


class Meeting:
    """Runs steps together.

    Args:
        networks: frozen networks whose forward is where they meet.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = list(networks)
        self._mine = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self.calls = 0
        """Calls that steps made of the networks."""
        self.answers = 0
        """Times that a network was run for them."""

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of tasks that run in turns and meet at the networks.

        What a task raises ends them all.
        """
        if self._pool is None or self._pool._max_workers < len(tasks):
            if self._pool is not None:
                self._pool.shutdown()
            self._pool = ThreadPoolExecutor(len(tasks), "step")
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
                for (
                    step
                ) in steps:  # those still on their way, because another one failed, end where they wait
                    step.parted = True
                    step.turn.release()
                wait(left)
                _put(before)
        return [step.future.result() for step in steps if step.future is not None]

    def _follow(self, step: Step[T]) -> T:
        """In the step's thread: run it, and hand on at its end."""
        step.turn.acquire()
        self._mine.step = step
        try:
            if step.parted:
                raise Parted
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
        groups: dict[Any, list[Step[Any]]] = {}
        for step in waiting:
            assert step.call is not None
            groups.setdefault(step.call.key, []).append(step)
        for group in groups.values():
            calls = [step.call for step in group if step.call is not None]
            self.answers += 1
            for step, answer in zip(group, _together(calls), strict=True):
                step.answer, step.call = answer, None

    @contextmanager
    def _open(self) -> Any:
        """While it is open, the networks' forward waits for the others."""
        before = [vars(network).get("forward") for network in self._networks]
        for network in self._networks:
            network.forward = self._waiting(network, network.forward)
        try:
            yield
        finally:
            for network, forward in zip(self._networks, before, strict=True):
                if forward is None:
                    del network.forward  # the class's own shows again
                else:
                    network.forward = forward

    def _waiting(self, network: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            step: Step[Any] | None = getattr(self._mine, "step", None)
            leaves, spec = pytree.tree_flatten((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
            if step is None or recorded or not any(t.dim() for t in tensors):
                return forward(*args, **kwargs)
            self.calls += 1
            kind = tensors[0].device.type
            context = (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            step.call = Call(network, forward, leaves, spec, context)
            step.handed.release()
            step.turn.acquire()
            if step.parted:
                raise Parted
            answer, step.answer = step.answer, None
            return answer

        return inner


def _together(calls: list[Call]) -> list[Any]:
    """The answers of calls that are alike, from one run of the network."""
    first = calls[0]
    kind, enabled, dtype = first.context
    with torch.no_grad(), torch.autocast(kind, dtype=dtype, enabled=enabled):
        if len(calls) == 1:
            args, kwargs = pytree.tree_unflatten(first.leaves, first.spec)
            return [first.forward(*args, **kwargs)]
        sizes = [call.size for call in calls]
        leaves = []
        for column in zip(*(call.leaves for call in calls), strict=True):
            if not isinstance(column[0], Tensor):
                leaves.append(column[0])
            elif column[0].dim() == 0:  # one noise level for a whole call
                rows = [value.expand(size) for value, size in zip(column, sizes, strict=True)]
                leaves.append(torch.cat(rows))
            else:
                leaves.append(torch.cat(column))
        args, kwargs = pytree.tree_unflatten(leaves, first.spec)
        output, spec = pytree.tree_flatten(first.forward(*args, **kwargs))
    parts = [
        value.split(sizes) if isinstance(value, Tensor) and value.dim() else [value] * len(calls)
        for value in output
    ]
    return [pytree.tree_unflatten([part[i] for part in parts], spec) for i in range(len(calls))]


def _draws() -> Any:
    """The state of the process's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _put(draws: Any) -> None:
    torch.set_rng_state(draws[0])
    if draws[1]:
        torch.cuda.set_rng_state_all(draws[1])
    np.random.set_state(draws[2])
    random.setstate(draws[3])
