"""The command line on two processes: ``python sample_ranks.py ARGUMENTS``. One imports everything and forks both."""

import sys
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dreamprop.cli import main
from tests.distributed.forks import forked

LATER = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "dreamprop.cli.sample",
    "dreamprop.guidance.diffusion",
)
"""What the program imports when it knows what to do."""


def rank() -> None:
    """What one of them does: it leaves with the program's own status."""
    if status := main(sys.argv[1:]):
        raise SystemExit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in LATER:
        import_module(name)
    sys.exit(min(forked(2, rank), 1))
