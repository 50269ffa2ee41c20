"""Who does a thing alone and who meets whom, on three real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("together")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("together.py")), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_ranks_of_a_group_meet_without_the_others(found: list[dict[str, list]]) -> None:
    told = [rank["groups"] for rank in found]
    assert told == [[[0, 2], [0, 1, 2]], [[0, 1, 2]], [[0, 2], [0, 1, 2]]]


def test_what_the_first_rank_raises_ends_the_waiting_of_the_others(found: list[dict[str, list]]) -> None:
    first, *others = [rank["endings"] for rank in found]
    refused = "InputError: x must be 1, got 2; use 1 (1)"
    assert first == ["nothing (1)", refused, "KeyError: 'ours' (1)", "KeyboardInterrupt:  (1)"]
    for other in others:
        assert other == [
            "nothing (1)",
            refused,
            "RankFailed: rank 0 failed: KeyError: 'ours' (1)",
            "RankFailed: rank 0 failed: KeyboardInterrupt (1)",
        ]
