"""The command that goes on with a run that was stopped."""

import shlex
from argparse import Namespace
from pathlib import Path

from dreamprop.runs.command import started


def command(given: Namespace, size: int, kept: Path) -> str:
    """The command line of a run, going on from a checkpoint.

    Args:
        given: the command line that began it, its paths absolute.
        size: processes of the run.
        kept: the checkpoint.
    """
    words = [*started(size), "--config", str(given.config), "--train"]
    for flag in ("baseline", "verbose"):
        words += [f"--{flag}"] if getattr(given, flag) else []
    for name in ("threestudio", "device", "gpu"):
        value = getattr(given, name)
        words += [f"--{name}", str(value)] if value is not None else []
    more = [word for word in given.overrides if not word.startswith("resume=")]
    return shlex.join([*words, *more, f"resume={kept}"])
