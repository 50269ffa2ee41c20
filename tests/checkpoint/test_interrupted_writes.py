"""A disk that refuses and a kill leave whole checkpoints or none, and what they leave behind is swept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop import checkpoint
from dreamprop.state import equal
from tests.checkpoint.files import fill, steps_in
from tests.checkpoint.windows import SMALL


def test_a_disk_that_refuses_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, replace(SMALL, params={"a": torch.ones(9)}), {})
    assert equal(checkpoint.load(path)[0], SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001.json", "step-000001.safetensors"]


def test_a_disk_that_refuses_the_last_rename_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = fill(tmp_path, 1)
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".json":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    for step in (1, 2):
        with pytest.raises(OSError, match="Input/output error"):
            fill(tmp_path, step)
        assert steps_in(tmp_path) == [1] and not list(tmp_path.glob(".*"))
        assert checkpoint.newest(tmp_path).path == path


class Killed(BaseException):
    """Stands for SIGKILL: nothing is tidied up after it."""


CHANGES = ("mkdir", "open", "unlink", "replace")


@pytest.mark.parametrize("again", ["nothing", "the same", "another"])
def test_a_kill_at_any_moment_leaves_whole_checkpoints_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """Before and after every change of the disk; what was there is there, or what is new, and nothing else."""
    old, new = replace(SMALL, params={"a": torch.ones(9)}), replace(SMALL, step=2)
    there = {"nothing": None, "the same": new, "another": replace(new, params={"a": torch.ones(3)})}[again]
    moments, left = 0, -1
    while left < 0:
        folder = tmp_path / str(moments)
        checkpoint.save(folder, old, {})
        if there is not None:
            checkpoint.save(folder, there, {})
        left, dead = moments, False

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(self: Path, *args: Any, **kwargs: Any) -> Any:
                nonlocal left, dead
                left -= not dead
                dead = dead or left < 0
                if dead:
                    raise Killed
                return real(self, *args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in CHANGES:
                patch.setattr(Path, name, dying(getattr(Path, name)))
            try:
                checkpoint.save(folder, new, {})
            except Killed:
                left = -1
        moments += 1
        found, _, _, damaged = checkpoint.newest(folder)
        checkpoint.sweep(folder)
        after, window, _, _ = checkpoint.newest(folder)
        assert found == after and damaged == [] and not list(folder.glob(".*"))
        assert steps_in(folder) in ([1], [1, 2]) and checkpoint.sweep(folder) == []
        saved = [old] + [state for state in (there, new) if state is not None]
        assert any(equal(window.states[0], state) for state in saved)
        if again == "the same":
            assert equal(window.states[0], new), "a checkpoint that is written once more is never lost"
    assert moments > 5 and equal(window.states[0], new)


def test_sweep_leaves_what_no_kill_explains(tmp_path: Path) -> None:
    paths = fill(tmp_path, 1, 2, 3)
    paths[2].with_suffix(".json").rename(tmp_path / ".partial-step-000003.json")
    paths[1].with_suffix(".json").unlink()
    for name in (".partial-step-000004.safetensors", ".partial-metrics.csv"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".partial-folder").mkdir()
    swept = {p.name for p in checkpoint.sweep(tmp_path)}
    assert {"step-000003.safetensors", ".partial-step-000003.json", ".partial-metrics.csv"} < swept
    left = [".partial-folder", "step-000001.json", "step-000001.safetensors", "step-000002.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == left
    found = checkpoint.newest(tmp_path)
    assert found.path == paths[0] and "got no step-000002.json" in found.damaged[0]
