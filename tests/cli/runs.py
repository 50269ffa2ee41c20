"""Runs of the command line: how the toy's is started, where it lies, and what a run leaves in its folder."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.methods.dreamfusion import DreamFusion

Cli = Callable[..., int]
"""The fixture `cli`."""
Refused = Callable[[int], str]
"""The fixture `refused`."""
TOY = [sys.executable, str(Path(__file__).with_name("toy.py")), "--config", "toy.yaml"]
FOLDER = Path("outputs/toy/a_red_sphere")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def summary(folder: Path) -> dict:
    """What a run says of itself at its end."""
    return json.loads((folder / "summary.json").read_text())


def final(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint."""
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    return {**state.params, **state.moments, **state.buffers}


def same(a: Path, b: Path) -> bool:
    """Whether two runs ended in the same tensors, to the last bit."""
    one, two = final(a), final(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def killed(step: int, run: Callable[[], int]) -> int:
    """The exit code of a fork that runs this, and is killed (SIGKILL) when it updates a state of that step."""
    child = os.fork()
    if child == 0:
        plain = DreamFusion.update

        def update(self: DreamFusion, state: dp.State, drift: dp.Drift) -> dp.State:
            if state.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, state, drift)

        DreamFusion.update = update  # type: ignore[method-assign]
        try:
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
