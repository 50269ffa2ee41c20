"""Kill runs at random moments, go on, and compare: ``python tests/distributed/kills.py FOLDER --count 25``.

Every run is the command line itself, on the toy with a few megabytes of state, in real processes: one alone, or three
over gloo of which one is killed. After SIGKILL the run goes on (and may be killed again, one time in four) until it is
done; its last state must be that of a run that nobody disturbed, bit for bit, and nothing may be half written.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dreamprop import checkpoint
from dreamprop.state import equal
from tests.cli import toy
from tests.distributed.forks import free_port

OPTIONS = (
    "trainer.max_steps=60", "checkpoint.every_n_train_steps=4", "checkpoint.train_time_interval=0.05",
    "parallel.sub_batch=2", "output.turntable_frames=2", "parallel.timeout=30",
)  # fmt: skip


def begin(ranks: int, *arguments: str) -> list[int]:
    """Start the command line in so many processes; returns their ids."""
    port, children = free_port(), []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        status = 1
        try:
            os.setpgid(0, 0)
            if ranks > 1:
                os.environ |= {
                    "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            null = os.open(os.devnull, os.O_WRONLY)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(null, 1)
            os.dup2(log, 2)
            from dreamprop.cli import main

            status = main(["--config", "toy.yaml", "--train", *arguments, *OPTIONS])
        finally:
            os._exit(status)
    return children


def end(children: list[int]) -> list[int]:
    """Wait for processes; where one fails, ask the others to stop, and then make them, as ``torchrun`` does."""
    statuses: dict[int, int] = {}
    asked = 0.0
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses and (found := os.waitpid(child, os.WNOHANG))[0]:
                statuses[child] = os.waitstatus_to_exitcode(found[1])
        if any(statuses.values()) and (not asked or time.monotonic() - asked > 5):
            for child in children:
                if child not in statuses:
                    os.kill(child, signal.SIGKILL if asked else signal.SIGTERM)
            asked = time.monotonic()
        time.sleep(0.01)
    return [statuses[child] for child in children]


def last(folder: Path) -> checkpoint.State:
    return checkpoint.load(checkpoint.latest(folder / "checkpoints"))[0]


def half_written(folder: Path) -> list[Path]:
    """Files that are not whole: left beside their place, or a checkpoint without its other half."""
    found = [p for p in folder.rglob("*") if ".partial" in p.name]
    found += [p for p in folder.rglob("step-*.safetensors") if not p.with_suffix(".json").exists()]
    return found


def kill_once(ranks: int, layout: str, draw: random.Random, tag: str) -> tuple[int, bool, list[Path]]:
    """One run that is killed, and goes on until it is done.

    Returns:
        How many times it was killed, whether its last state is right, and what it left half written.
    """
    folder, whole = Path("outputs/toy") / tag, last(Path("outputs/toy") / "whole")
    kills, limit = 0, 3.0
    while True:
        known = folder / "config.yaml"
        go_on = ("--resume", str(folder)) if known.exists() else (f"tag={tag}",)
        if not known.exists():
            shutil.rmtree(folder, ignore_errors=True)  # killed before there was a run
        began = time.monotonic()
        children = begin(ranks, *go_on, f"parallel.layout={layout}")
        if kills == 0 or draw.random() < 0.25:
            time.sleep(draw.uniform(0.0, limit))
            os.kill(draw.choice(children), signal.SIGKILL)
            statuses = end(children)
            if any(statuses):
                kills += 1
                continue
            limit = 0.8 * (time.monotonic() - began)  # it was done before: sooner next time
            shutil.rmtree(folder)
            continue
        statuses = end(children)
        if any(statuses):
            print(Path("log.txt").read_text()[-3000:], file=sys.stderr)
            raise RuntimeError(f"{tag} ended with {statuses}")
        return kills, equal(last(folder), whole), half_written(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=25, help="runs in one process, and as many in three")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    os.environ |= {"TOY_SECONDS": "0.01", "TOY_BULK": "300000", "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    import torchmetrics  # noqa: F401  once, before the processes part

    toy.register()
    Path("toy.yaml").write_text(toy.CONFIG)
    draw = random.Random(args.seed)
    if any(end(begin(1, "tag=whole"))):
        print(Path("log.txt").read_text(), file=sys.stderr)
        return 1
    right = kills = runs = 0
    left: list[Path] = []
    for ranks, layouts in ((1, ("replicated",)), (3, ("replicated", "sharded"))):
        for i in range(args.count):
            layout = layouts[i % len(layouts)]
            killed, good, half = kill_once(ranks, layout, draw, f"{ranks}-{i}")
            runs, right, kills = runs + 1, right + good, kills + killed
            left += half
            print(
                f"{ranks} process(es), {layout}, run {i}: killed {killed} time(s), {'the same' if good else 'WRONG'}",
                flush=True,
            )
    print(f"{right} of {runs} runs bit-identical after {kills} kills, {len(left)} files half written")
    return int(right < runs or bool(left))


if __name__ == "__main__":
    sys.exit(main())
