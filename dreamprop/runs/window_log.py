"""`windows.jsonl`: the windows that a run chose and why, each written before it is used.

A run that goes on follows the decisions that it finds in its folder, and another follows them with `parallel.window:
FOLDER`; both take the same rounds as the run that decided, bit for bit.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from dreamprop.config.validate import brief
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.coordination import run_on_main
from dreamprop.errors import InputError
from dreamprop.solver.window_choice import AUTO, Decision, Windows, as_windows
from dreamprop.utils.atomic_io import write_text, writing

WINDOWS = "windows.jsonl"
"""File of a run's folder that holds which windows it chose."""


def check(window: int | str, communicator: Communicator) -> None:
    """See that there is a log to follow where one is asked for; the first process looks, whose disk has it.

    Raises:
        InputError: there is none.
    """

    def look() -> None:
        if not os.path.isfile(os.path.join(str(window), WINDOWS)):
            raise InputError(
                f"parallel.window must be a number, {AUTO}, or the folder of a run that chose its windows (with "
                f"{WINDOWS}), got {brief(window)}; use {AUTO}"
            )

    if isinstance(window, str) and window != AUTO:
        run_on_main(communicator, look)


def open_windows(
    window: int | str, communicator: Communicator, place: Path | None = None, step: int = 0
) -> Windows:
    """The windows of a run; every process calls this.

    Args:
        window: a number, `auto`, or the folder of a run whose decisions are followed.
        communicator: the processes of the run; the first one reads and writes.
        place: the folder of the run, where decisions are kept; nowhere by default.
        step: the step that the run begins at; 0 begins a new log.

    Raises:
        InputError: there is no log to follow, or it cannot be read.
    """
    if not isinstance(window, str):
        return as_windows(window)
    replayed = window != AUTO
    source = Path(window) if replayed else place if step else None
    found = run_on_main(communicator, lambda: [d.to_json() for d in read(source)] if source else [])
    decisions = [Decision.from_json(row) for row in communicator.all_gather_object(found)[0]]
    if replayed:
        if not decisions:
            raise InputError(f"{source}/{WINDOWS} must hold a decision, got none; use parallel.window={AUTO}")
        decisions[-1] = replace(decisions[-1], until=None)
    if communicator.rank or place is None:
        return Windows(decisions)
    path = place / WINDOWS
    write_text(path, "".join(line(decision) for decision in decisions))

    def decided(decision: Decision) -> None:
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(line(decision))

    return Windows(decisions, decided)


def line(decision: Decision) -> str:
    """A decision as the log has it."""
    return json.dumps(decision.to_json()) + "\n"


def read(folder: Path) -> list[Decision]:
    """The decisions of a run, none where it took none; a last line that a kill cut short was not used yet, and is left
    out.

    Raises:
        InputError: a line is damaged.
    """
    path, found = folder / WINDOWS, list[Decision]()
    if not os.path.isfile(path):
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, text in enumerate(lines, 1):
        try:
            found.append(Decision.from_json(json.loads(text)))
        except (ValueError, TypeError, KeyError, AttributeError):
            if number == len(lines) and not text.endswith("\n"):
                break
            raise InputError(
                f"{path}, line {number}, must be a decision, got {text[:40]!r}; drop the file"
            ) from None
    return found
