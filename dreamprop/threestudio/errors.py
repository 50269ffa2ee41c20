"""What is raised where a system does what no chain of pure steps can do."""

from __future__ import annotations


class NotAChain(ValueError):
    """A system cannot be run as a chain of pure steps; one line says what it does, and what to do.

    Before the first step nothing is lost. Later the run ends there, and what was accepted is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
