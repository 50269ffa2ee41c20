"""Upstream's text encoders run in a child process for the memory's sake; a child would not have the stand-ins.

So with stand-ins they run here, one after another; what they write is the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

PROMPTS = "threestudio.models.prompt_processors.base"


class Here:
    """`multiprocessing.Process` as far as upstream uses it, in this process."""

    exitcode: int | None = None

    def __init__(self, target: Callable[..., Any], args: Sequence[Any] = ()) -> None:
        self.target, self.args = target, args

    def start(self) -> None:
        """Run the target to its end; its errors are raised here, with their own words."""
        self.target(*self.args)
        self.exitcode = 0

    def join(self) -> None:
        """Return at once: the work was done in `start`."""


def keep_here() -> list[tuple[str, str]]:
    """Replace the process factory of upstream's prompt processors."""
    module = importlib.import_module(PROMPTS)
    if not hasattr(module, "mp"):
        return []
    setattr(module, "mp", SimpleNamespace(get_context=lambda method: SimpleNamespace(Process=Here)))  # noqa: B010
    return [("the text encoder's child process", "it would not have the stand-ins")]
