"""Ctrl-C, SIGTERM and kill: what was accepted is kept, and the run goes on where it was."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from dreamprop import checkpoint
from dreamprop.cli import main
from tests.cli.runs import FOLDER, TOY

OPTIONS = ["--train", "--baseline", "trainer.max_steps=60", "checkpoint.every_n_train_steps=5"]


def start(**environment: str) -> subprocess.Popen:
    """A run that takes 3 seconds, in a process of its own, 6 steps or more after its start."""
    process = subprocess.Popen(
        [*TOY, *OPTIONS],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # whoever runs the tests may have SIGHUP ignored, which children inherit and a run respects
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    while process.poll() is None and not list(FOLDER.glob("checkpoints/step-*.json")):
        time.sleep(0.02)
    return process


def end(folder: Path) -> dict[str, torch.Tensor]:
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    assert state.step == 60
    return {**state.params, **state.moments}


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGKILL, -9)]
)
def test_an_interrupted_run_goes_on_to_the_same_result(signum: int, status: int) -> None:
    process = start(TOY_SECONDS="0.05")
    process.send_signal(signum)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    assert "Traceback" not in told
    step = checkpoint.load(checkpoint.latest(FOLDER / "checkpoints"))[0].step
    assert 5 <= step < 60
    arguments = ["--config", str(FOLDER / "config.yaml"), "--train", "--baseline", "--resume", str(FOLDER)]
    if signum != signal.SIGKILL:
        found = re.search(r"saved step (\d+) of 60; go on with:\n  (.*)", told)
        assert found and int(found[1]) == step
        assert shlex.split(found[2]) == ["python", "launch.py", *arguments]
    assert main(arguments) == 0
    assert main(["--config", "toy.yaml", *OPTIONS, "tag=whole"]) == 0
    one, two = end(FOLDER), end(FOLDER.with_name("whole"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    lines = (FOLDER / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == [str(step) for step in range(1, 61)]


def test_a_signal_waits_for_the_end_of_a_held_block() -> None:
    from dreamprop.utils.signals import Guard, Interrupted

    done = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as raised, Guard() as guard, guard.hold():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append(True)
    assert done and raised.value.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_nohup_keeps_a_run_from_a_hangup() -> None:
    from dreamprop.utils.signals import Guard

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Guard():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
