"""How states lie over processes: whole on each of them, unless they are cut."""

from __future__ import annotations

from typing import Any, Protocol

from dreamprop.state import State


class Layout(Protocol):
    """How states lie over processes, for who sums over their elements or wants them whole."""

    def shard(self, state: State) -> State:
        """What this process keeps of a whole state."""
        ...

    def unshard(self, state: State) -> State:
        """A whole state from what the processes keep; all of them must ask together."""
        ...

    def counts(self, state: State, name: str) -> bool:
        """Whether this process adds what it keeps of a tensor to a sum over all of its elements."""
        ...

    def numel(self, state: State, name: str) -> int:
        """Elements of the whole tensor."""
        ...

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all processes, one after another."""
        ...


class Replicated:
    """Every process keeps everything."""

    def shard(self, state: State) -> State:
        """A process keeps the whole state."""
        return state

    def unshard(self, state: State) -> State:
        """What a process keeps is the whole state already."""
        return state

    def counts(self, state: State, name: str) -> bool:
        """Every process has summed over everything by itself, so each tensor counts on each of them."""
        return True

    def numel(self, state: State, name: str) -> int:
        """Elements of the tensor, of which every process has all."""
        return (state.params[name] if name in state.params else state.buffers[name]).numel()

    def gather(self, rows: list[Any]) -> list[Any]:
        """A process has all rows itself, and they are the same on the others."""
        return rows


REPLICATED = Replicated()
