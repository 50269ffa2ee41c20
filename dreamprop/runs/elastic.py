"""Going on by itself: what `torchrun --max-restarts`, or a scheduler that queues a job again, starts anew finds the
folder that the same launch has begun."""

import os
import socket
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dreamprop.runs.experiment import tagged
from dreamprop.utils import atomic_io

MARK = ".launch"


def launch() -> str | None:
    """A name for this launch that its restarts share: the rendezvous id, or the launcher's process; none without."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    return name if name not in ("", "none") else f"{socket.gethostname()}-{os.getppid()}"


def mark(place: Path) -> None:
    """Leave the name of the launch in the folder of its run."""
    name = launch()
    if name is not None:
        atomic_io.write_text(place / MARK, name)


def begun(parent: Path, tree: DictConfig) -> Path | None:
    """The folder of a run of this launch, with this config, that is not finished; the last one begun.

    Args:
        parent: where the runs of a name are.
        tree: the config.
    """
    name = launch()
    if name is None or not os.path.isdir(parent):
        return None
    marks = sorted(parent.glob(f"*/{MARK}"), key=lambda mark: mark.stat().st_mtime)
    for place in (mark.parent for mark in reversed(marks) if mark.read_text(encoding="utf-8") == name):
        config = place / "config.yaml"
        ours = OmegaConf.to_yaml(tagged(tree, place.name))
        if not (place / "summary.json").exists() and config.is_file() and config.read_text() == ours:
            return place
    return None
