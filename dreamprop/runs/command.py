"""The command lines that are printed: how the program was started, and how to go on with a run."""

import os
import shlex
from pathlib import Path


def started(processes: int) -> list[str]:
    """How the program is started on so many processes, without its arguments."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    start = ["python"] if processes == 1 else ["torchrun", "--nproc-per-node", str(local)]
    if processes > local:
        start += ["--nnodes", str(processes // local), "..."]
    return [*start, "launch.py"]


def command(place: Path, sequential: bool, processes: int = 1) -> str:
    """The command that goes on with a run.

    Args:
        place: the folder of the run.
        sequential: whether it is the baseline.
        processes: of the run.
    """
    flags = ["--train", "--baseline"] if sequential else ["--train"]
    config = str(place / "config.yaml")
    return shlex.join([*started(processes), "--config", config, *flags, "--resume", str(place)])
