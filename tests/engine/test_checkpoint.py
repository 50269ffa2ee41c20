"""Checkpoints are whole or refused, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.state import equal
from tests.engine.chains import Growing, optimizer


def test_a_run_goes_on_from_disk_bit_for_bit(tmp_path: Path) -> None:
    process = Growing(optimizer("Adan"), torch.float32)
    half = dp.solve(process, 14, 5, 0).state
    path = checkpoint.save(tmp_path / "new", half, {"prompt": "a red torus"}, {"guess/a": torch.ones(2)})
    assert path.name == "step-000014.safetensors"
    state, meta = checkpoint.load(checkpoint.latest(tmp_path / "new"))
    assert equal(state, half) and meta == {"prompt": "a red torus"}
    assert checkpoint.load_extra(path)["guess/a"].tolist() == [1, 1]
    assert equal(dp.solve(process, 25, 5, 0, state=state).state, dp.solve_sequential(process, 25).state)
    assert not list((tmp_path / "new").glob(".*"))


def test_tensors_that_share_memory_or_have_holes(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    state = dp.State({"a": x, "b": x.T, "c": x[:, 1]}, {"a/m": x}, {"n": torch.tensor(3), "e": x[:0]}, 2)
    assert equal(checkpoint.load(checkpoint.save(tmp_path, state, {}))[0], state)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (3, 999999, 1000001, 20):
        checkpoint.save(tmp_path, dp.State({"a": torch.zeros(1)}, {}, {}, step), {})
    (tmp_path / "step-2000000.safetensors").write_bytes(b"never finished: no .json")
    assert checkpoint.latest(tmp_path).name == "step-1000001.safetensors"
    dropped = checkpoint.keep(tmp_path, 2)
    assert [p.name for p in dropped] == ["step-000003.safetensors", "step-000020.safetensors"]
    assert checkpoint.latest(tmp_path).name == "step-1000001.safetensors"
    with pytest.raises(ValueError, match="keep must be >= 1, got 0"):
        checkpoint.keep(tmp_path, 0)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.with_suffix(".json").write_text(json.dumps({"format": "another"}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        foreign,
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_bytes(b"\xff{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
        lambda path: truncate(path.with_suffix(".json")),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = checkpoint.save(tmp_path, dp.State({"a": torch.zeros(9)}, {}, {}, 1), {})
    damage(path)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_an_empty_or_missing_folder_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="must hold a checkpoint"):
            checkpoint.latest(folder)
    with pytest.raises(ValueError, match=r"must be a .safetensors file"):
        checkpoint.load(tmp_path)


def test_a_disk_that_refuses_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = dp.State({"a": torch.zeros(9)}, {}, {}, 1)
    path = checkpoint.save(tmp_path, old, {})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, dp.State({"a": torch.ones(9)}, {}, {}, 1), {})
    assert equal(checkpoint.load(path)[0], old)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001.json", "step-000001.safetensors"]
