"""The command line under ``torchrun``: who writes and prints, and what happens when a process fails, hangs or dies."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dreamprop
from dreamprop import checkpoint
from dreamprop.state import State, equal
from tests.cli import toy

FOLDER = Path("outputs/toy/a_red_sphere")
TRAIN = ["--train", "parallel.sub_batch=2", "checkpoint.every_n_train_steps=5"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toy.yaml").write_text(toy.CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(dreamprop.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    return tmp_path


def start(ranks: int, *arguments: str, restarts: int = 0, **environment: str) -> subprocess.Popen:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launch, "--max-restarts", str(restarts), toy.__file__, "--config", "toy.yaml", *arguments]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def alone(*arguments: str) -> None:
    command = [sys.executable, toy.__file__, "--config", "toy.yaml", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def last(folder: Path = FOLDER) -> State:
    return checkpoint.load(checkpoint.latest(folder / "checkpoints"))[0]


def own(told: str) -> list[str]:
    """What the program printed, without the launcher's lines."""
    return [line for line in told.splitlines() if line.strip() and "torch/distributed/" not in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The result of one process that nobody disturbs."""
    here = tmp_path_factory.mktemp("alone")
    (here / "toy.yaml").write_text(toy.CONFIG)
    command = [sys.executable, toy.__file__, "--config", "toy.yaml", *TRAIN]
    environment = os.environ | {
        "PYTHONPATH": str(Path(dreamprop.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=here, env=environment)
    return last(here / FOLDER)


def test_one_rank_writes_and_prints_and_a_signal_stops_all(undisturbed: State) -> None:
    """SIGTERM to the launcher: all stop at the same round, and the run goes on with another number of ranks."""
    job = start(3, *TRAIN, "parallel.layout=sharded", TOY_SECONDS="0.1")
    while job.poll() is None and not list(FOLDER.glob("checkpoints/step-*.json")):
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    out, told = job.communicate(timeout=60)
    assert job.returncode != 0
    assert out == f"writing to {FOLDER}\n"
    found = re.search(r"interrupted by SIGTERM\nsaved step (\d+) of 40; go on with:\n  (torchrun .*)\n", told)
    assert found and last().step == int(found[1]) < 40, told
    assert shlex.split(found[2])[:4] == ["torchrun", "--nproc-per-node", "3", "launch.py"]
    go_on = ["--config", str(FOLDER / "config.yaml"), "--train", "--resume", str(FOLDER)]
    job = start(2, *go_on[2:], "parallel.sub_batch=2")
    out, told = job.communicate(timeout=60)
    assert job.returncode == 0, told
    assert equal(last(), undisturbed)
    assert out.count("writing to") == 1 and out.count("40 steps in") == 1


def test_windows_that_two_ranks_chose_are_followed_by_one() -> None:
    """The first rank decides for both; its log stands for the clock, on any number of processes."""
    steps = "trainer.max_steps=150"  # of fewer, trying a window would cost too large a share
    job = start(2, *TRAIN, steps, "parallel.window=auto", "parallel.layout=sharded", TOY_SECONDS="0.01")
    _, told = job.communicate(timeout=90)
    assert job.returncode == 0, told
    kept = json.loads((FOLDER / "summary.json").read_text())["windows"]
    assert kept[0]["window"] == 1 and max(row["window"] for row in kept) > 1, "something was tried"
    alone(*TRAIN, steps, f"parallel.window={FOLDER}", "tag=again")
    assert equal(last(), last(FOLDER.parent / "again"))


def test_a_rank_that_raises_ends_the_job_with_its_own_error(place: Path) -> None:
    once = place / "when"
    job = start(3, *TRAIN, TOY_SECONDS="0.02", TOY_RAISE="1:19", TOY_ONCE=str(once))
    _, told = job.communicate(timeout=60)
    assert job.returncode != 0
    assert time.time() - float(once.read_text()) < 10
    lines = own(told)
    assert lines[0].startswith("Traceback"), told
    assert lines.count("RuntimeError: the toy broke") == 1
    assert "rank 1 failed: RuntimeError: the toy broke" in lines
    assert re.search(r"saved step \d+ of 40; go on with:\n  torchrun", told), told


def test_a_rank_that_hangs_is_named(place: Path) -> None:
    job = start(2, *TRAIN, "parallel.timeout=2", TOY_STALL="1:17")
    _, told = job.communicate(timeout=60)
    assert job.returncode != 0
    assert own(told)[0].startswith("rank 1 must answer within 2 s, got nothing"), told
    assert re.search(r"saved step (\d+) of 40; go on with:\n  torchrun", told), told
    assert last().step >= 5


@pytest.mark.parametrize(("layout", "victim"), [("sharded", 0)])
def test_a_killed_rank_is_started_again_and_nothing_is_lost(
    place: Path, undisturbed: State, layout: str, victim: int
) -> None:
    once, trouble = place / "when", f"{victim}:18"
    job = start(
        3, *TRAIN, f"parallel.layout={layout}", restarts=1, TOY_DIE=trouble, TOY_ONCE=str(once)
    )  # fmt: skip
    out, told = job.communicate(timeout=90)
    assert job.returncode == 0 and once.exists(), told
    assert out.count(f"writing to {FOLDER}\n") == 2, "both times the same folder"
    assert equal(last(), undisturbed)


def test_what_is_wrong_is_told_once(place: Path) -> None:
    job = start(2, "--train", "parallel.evaluator=serial")
    out, told = job.communicate(timeout=60)
    assert job.returncode != 0 and not out
    errors = [line for line in own(told) if line.startswith("error:")]
    assert (
        errors == ["error: parallel.evaluator must be distributed with 2 processes, got serial; drop it"] * 1
    ), told


def test_comparing_lets_the_first_rank_be_the_baseline() -> None:
    job = start(2, "--compare", "parallel.tolerance=0", "parallel.sub_batch=1")
    _, told = job.communicate(timeout=90)
    assert job.returncode == 0, told

    report = json.loads((FOLDER / "report.json").read_text())
    assert report["identical"] and report["accelerated"]["world_size"] == 2
    assert report["baseline"]["world_size"] == 1 and report["baseline"]["threads"] == 2


LOOP = """
import os, sys, torch, dreamprop as dp
torch.manual_seed(int(os.environ["RANK"]) if "differ" in sys.argv else 0)
net = torch.nn.Linear(4, 4)
loss = lambda net, step, g: net(torch.randn(8, 4, generator=g)).square().mean()
process = dp.wrap(net, loss, torch.optim.Adam(net.parameters(), 0.01))
same = dp.solve(process, 30, window=6, evaluator=dp.evaluate.serial)
solution = dp.solve(process, 30, window=6)
process.commit(solution.state)
equal = torch.equal(same.state.params["weight"], net.weight)
print(f"rank {os.environ['RANK']} {equal} {solution.stats.num_rounds}\\n", end="")
"""


def test_a_loop_of_ones_own_needs_no_change(place: Path) -> None:
    (place / "loop.py").write_text(LOOP)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "loop.py",
    ]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=90)
    lines = sorted(done.stdout.splitlines())
    assert [line[:11] for line in lines] == ["rank 0 True", "rank 1 True"], done.stderr
    assert int(lines[0].split()[-1]) < 30
    done = subprocess.run([*launch, "differ"], capture_output=True, text=True, timeout=90)
    assert done.returncode != 0
    assert "all ranks must begin with the same state, got" in done.stderr and "seed what makes" in done.stderr
