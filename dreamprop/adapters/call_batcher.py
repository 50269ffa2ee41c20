"""Where the steps of a window meet: calls of frozen networks wait for one another and are answered together.

Each step runs in a thread of its own on its own copy of what is trained, and only one thread runs at a time: it has
the process's generators to itself, and hands on when it calls a frozen network or ends. Threads rather than
greenlets, because whether gradients are recorded, and in which precision, is kept by PyTorch for each thread.

A network may be entered by any method: a diffusion model by ``forward``, an autoencoder by ``decode``, which calls
modules inside it. Steps meet at the outermost of its modules that is called: there everything is tensors.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dreamprop.adapters.batched_call import Call, Mixed, compare, form, join_calls, joinable
from dreamprop.adapters.caller_context import CallerContext
from dreamprop.adapters.generator_states import generator_states, restore, same_states

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


def say_mixed(network: nn.Module, mixed: Mixed) -> None:
    """Say that a network is called by each step for itself, and why."""
    print(f"steps of a window do not share their calls of {type(network).__name__}: {mixed}", file=sys.stderr)


class CallBatcher:
    """Runs the steps of a window together, so that each frozen network is run once for all of them.

    Args:
        networks: frozen; the steps meet where modules of theirs are called.
        device: of the steps; which GPU is the current one is kept for each thread.
        recorded: whether steps meet at calls too through which gradients are recorded. Their graphs are then one, and
            whoever runs the steps leaves their backward passes to ``backward``.
        on_mixed: called once with a network that turns out not to answer row by row, before each step is left to call
            it for itself; by default it is said.
    """

    def __init__(
        self,
        networks: Iterable[nn.Module],
        device: torch.device | None = None,
        *,
        recorded: bool = False,
        on_mixed: Callable[[nn.Module, Mixed], None] = say_mixed,
    ) -> None:
        self._modules = list({id(m): m for network in networks for m in _entries(network)}.values())
        self._device, self._recorded, self._on_mixed = device, recorded, on_mixed
        self._differentiating = False
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
            self._pool = ThreadPoolExecutor(len(tasks), "step")
        before, context = generator_states(), CallerContext(self._device)
        steps = [Step(task, before) for task in tasks]
        with self._open():
            try:
                for step in steps:
                    step.future = self._pool.submit(self._follow, step, context)
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
                restore(before)
        return [step.future.result() for step in steps if step.future is not None]

    def backward(self, losses: Sequence[Tensor]) -> None:
        """The backward pass of the losses of steps that have run, one for all of them: their graphs may be joined.

        Gradients are those of each alone, since what is trained is each step's own copy.

        Raises:
            ValueError: a random number was drawn on the way, which would belong to no step.
        """
        before = generator_states()
        self._differentiating = True
        try:
            torch.autograd.backward(list(losses))
        finally:
            self._differentiating = False
        if not same_states(before, generator_states()):
            raise ValueError(
                "backward passes must draw no random numbers, which the steps of a window share with frozen; "
                "draw in loss_fn, or leave frozen out"
            )

    def _follow(self, step: Step[T], context: CallerContext) -> T:
        """Called in the step's thread: wait for its turn, run it, and hand on at its end."""
        step.turn.acquire()
        self._mine.step = step
        try:
            if step.parted:
                raise Cancelled
            return context.call(step.task)
        finally:
            self._mine.step = None
            step.handed.release()

    def _turn(self, step: Step[Any]) -> None:
        """Let a step run until it calls a network, or ends."""
        restore(step.draws)
        step.turn.release()
        step.handed.acquire()
        step.draws = generator_states()
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
                if calls[0].recorded:
                    self._guard(network, answers)
                return answers
            except Mixed as mixed:
                self._on_mixed(network, mixed)
                self._mixed.add(id(network))
        self.runs += len(calls)
        return [ALONE] * len(calls)

    def _guard(self, network: nn.Module, answers: list[Any]) -> None:
        """See that nobody differentiates through joined answers but ``backward``: a graph is there for one pass."""

        def refuse(grad: Tensor) -> None:
            if not self._differentiating:
                raise ValueError(
                    "loss_fn must leave gradients through frozen networks to the backward pass of its loss, took one "
                    f"through {type(network).__name__}; leave that out of frozen"
                )

        for leaf in pytree.tree_leaves(answers):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(refuse)

    def _try(self, calls: list[Call]) -> list[Any]:
        """The answers from one run, the first time that such calls are joined: one is held against its own.

        Raises:
            Mixed: the network does not answer row by row, or draws.
        """
        before = generator_states()
        own = calls[0].run(recorded=False)
        self.runs += 1
        like = form(own)
        try:
            answers = join_calls(calls, like)
        except (Mixed, torch.OutOfMemoryError):
            raise
        except Exception as error:  # it has no objection to the call alone
            raise Mixed(f"{type(error).__name__}: {error}") from error
        compare(own, answers[0])
        if not same_states(before, generator_states()):
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
            if call is not None and call.recorded and not (self._recorded and joinable()):
                call = None
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


def _entries(network: nn.Module) -> Iterator[nn.Module]:
    """The modules of a network that may be called from outside: all of them, but none inside a compiled one."""
    yield network
    if "_orig_mod" not in network._modules:
        for part in network.children():
            yield from _entries(part)
