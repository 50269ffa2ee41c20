"""A folder of checkpoints: its newest whole one is found, the newest are kept, and the rest is passed over."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dreamprop import checkpoint
from dreamprop.state import equal
from tests.checkpoint.files import fill, flip, steps_in, truncate
from tests.checkpoint.windows import SMALL


def test_the_newest_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, 3, 999999, 1000001, 20)
    (tmp_path / "step-2000000.safetensors").write_bytes(b"never finished: no .json")
    assert checkpoint.latest(tmp_path).name == "step-1000001.safetensors"
    dropped = checkpoint.keep(tmp_path, 2)
    assert [p.name for p in dropped] == ["step-000003.safetensors", "step-000020.safetensors"]
    assert checkpoint.latest(tmp_path).name == "step-1000001.safetensors"
    with pytest.raises(ValueError, match="keep must be >= 1, got 0"):
        checkpoint.keep(tmp_path, 0)


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    paths = fill(tmp_path, 10, 20, 30, 40, 50)
    truncate(paths[4])
    truncate(paths[3].with_suffix(".json"))
    truncate(paths[0])
    assert checkpoint.keep(tmp_path, 3) == [] and checkpoint.keep(tmp_path, 2) == paths[:1]
    assert checkpoint.keep(tmp_path, 1) == paths[1:2] and checkpoint.keep(tmp_path, 1) == []
    assert checkpoint.newest(tmp_path).path == paths[2]


def test_the_one_just_saved_is_kept_whatever_lies_beyond_it(tmp_path: Path) -> None:
    fill(tmp_path, 10, 20, 30)
    flip(tmp_path / "step-000030.safetensors")
    flip(tmp_path / "step-000020.safetensors")
    (last,) = fill(tmp_path, 15)
    assert [p.name for p in checkpoint.keep(tmp_path, 1, last)] == ["step-000010.safetensors"]
    assert checkpoint.newest(tmp_path).path == last
    (last,) = fill(tmp_path, 35)
    checkpoint.keep(tmp_path, 1, last)
    assert steps_in(tmp_path) == [35]


def test_an_empty_or_missing_folder_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        for find in (checkpoint.latest, checkpoint.newest):
            with pytest.raises(ValueError, match="must hold a checkpoint"):
                find(folder)
        assert checkpoint.finished(folder) == checkpoint.sweep(folder) == checkpoint.keep(folder, 1) == []
    with pytest.raises(ValueError, match=r"must be a .safetensors file"):
        checkpoint.load(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_checkpoint_that_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fill(tmp_path, 1, 2)
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self == second:
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    found = checkpoint.newest(tmp_path)
    assert found.path == first
    assert found.damaged == [f"checkpoint must be readable, got Permission denied: {second}"]
    with pytest.raises(PermissionError):
        checkpoint.load(second)


def test_folders_and_names_that_only_look_like_checkpoints(tmp_path: Path) -> None:
    (path,) = fill(tmp_path, 1)
    for name in ("step-000009.safetensors", "step-000008.json"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000009.json").write_bytes(path.with_suffix(".json").read_bytes())
    os.symlink("step-000007.json", tmp_path / "step-000007.json")
    for name in ("step-2", "step-٠٠٠٠٠٩", "step-0000002", "best", "step-000002.old"):
        for suffix in (".safetensors", ".json"):
            shutil.copy(path.with_suffix(suffix), tmp_path / f"{name}{suffix}")
    found = checkpoint.newest(tmp_path)
    assert found.path == path and len(found.damaged) == 3
    assert checkpoint.latest(tmp_path) == path and checkpoint.keep(tmp_path, 1) == []
    assert checkpoint.sweep(tmp_path) == []
    assert equal(checkpoint.load(tmp_path / "best.safetensors")[0], replace(SMALL, step=1))
    with pytest.raises(ValueError, match="of the step in its name, got 1"):
        checkpoint.load(tmp_path / "step-2.json")


def test_the_last_line_names_the_newest_damage(tmp_path: Path) -> None:
    first, second = fill(tmp_path, 1, 2)
    flip(second)
    truncate(first)
    with pytest.raises(ValueError) as caught:
        checkpoint.newest(tmp_path)
    what = f"checkpoint must match its sha256, got other bytes in {second}"
    assert str(caught.value) == f"{what}, and none of 1 older is whole; begin a new run"
