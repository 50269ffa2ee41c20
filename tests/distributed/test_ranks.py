"""The number of processes, and how states lie over them, leave no trace in a result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dreamprop as dp
from dreamprop.process import as_process
from dreamprop.state import equal
from dreamprop.utils import foreach

from .cases import CASES, ways
from .fleet import RANKS, piece, told


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What real processes found: every case on 1, 2, 3 and 4 of them, by process."""
    folder = tmp_path_factory.mktemp("fleet")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fleet.py")), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_ranks_and_both_layouts_agree_bit_for_bit(
    name: str, results: dict[str, dict[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each other, and with one process that knows of no others."""
    assert set(results) == {f"{size}-{rank}" for size in RANKS for rank in range(size)}
    monkeypatch.setattr(foreach, "PIECE", piece(name))
    make, steps, arguments, sub_batch = CASES[name]
    process = make()
    batched = as_process(process).fused and sub_batch != 1
    evaluator = dp.evaluate.batched(sub_batch=sub_batch) if batched else dp.evaluate.serial
    alone = dp.solve(process, steps, evaluator=evaluator, **arguments)
    for which, found in results.items():
        for way in ways(name):
            assert found[f"{name}/{way}"] == told(alone), f"process {which}, {way}"
    if arguments.get("tolerance") == 0:
        assert equal(alone.state, dp.solve_sequential(make(), steps).state)
    else:
        assert max(alone.stats.strides) > 1
    assert torch.get_num_threads() == 1
