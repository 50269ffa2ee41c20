"""Checkpoints are whole or refused, in one line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.checkpoint.format import from_json
from dreamprop.solver.window import Window
from dreamprop.state import clone, equal
from tests.solver.chains import Growing, optimizer

SMALL = dp.State({"a": torch.zeros(9)}, {}, {}, 1)


def same(a: Window, b: Window) -> bool:
    """Whether two windows are the same to the last bit, the order of names and the lie of tensors included."""

    def named(state: dp.State) -> list[tuple[str, Tensor]]:
        return [item for part in (state.params, state.moments, state.buffers) for item in part.items()]

    def bits(x: Tensor) -> Tensor:
        return x.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8) if x.numel() else x

    pairs = list(zip(a.states, b.states, strict=False))
    return (
        len(a.states) == len(b.states)
        and a.threshold == b.threshold
        and all(type(x.step) is type(y.step) and x.step == y.step for x, y in pairs)
        and all([n for n, _ in named(x)] == [n for n, _ in named(y)] for x, y in pairs)
        and all(
            s.dtype == t.dtype and s.shape == t.shape and torch.equal(bits(s), bits(t))
            for x, y in pairs
            for (_, s), (_, t) in zip(named(x), named(y), strict=True)
        )
    )


def rounds(num_steps: int = 25, window: int = 5, **how: Any) -> list[Window]:
    """What the rounds of a run leave."""
    found: list[Window] = []
    process = Growing(optimizer("Adam"), torch.float32)
    dp.solve(process, num_steps, window, **how, callback=lambda round: found.append(round.window))
    return found


def test_a_run_goes_on_from_disk_bit_for_bit(tmp_path: Path) -> None:
    process = Growing(optimizer("Adan"), torch.float32)
    half = dp.solve(process, 14, 5, 0).state
    path = checkpoint.save(tmp_path / "new", half, {"prompt": "a red torus"})
    assert path.name == "step-000014.safetensors"
    state, meta = checkpoint.load(checkpoint.latest(tmp_path / "new"))
    assert equal(state, half) and meta == {"prompt": "a red torus"}
    assert equal(dp.solve(process, 25, 5, 0, state=state).state, dp.solve_sequential(process, 25).state)
    assert not list((tmp_path / "new").glob(".*"))


@pytest.mark.parametrize("how", [{}, {"error_rule": "paper", "threshold": 3e3}])
def test_what_a_round_leaves_comes_back_whole(tmp_path: Path, how: dict[str, Any]) -> None:
    found = rounds(window=8, **how)
    assert max(len(window.states) for window in found) > 2
    for window in found:
        path = checkpoint.save(tmp_path, window, {})
        again, _ = checkpoint.load_window(path)
        assert same(again, window) and same(Window((checkpoint.load(path)[0],)), Window(window.states[:1]))


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, math.inf])
def test_the_threshold_comes_back(tmp_path: Path, threshold: float | None) -> None:
    path = checkpoint.save(tmp_path, Window((SMALL,), threshold), {})
    assert checkpoint.load_window(path)[0].threshold == threshold


def test_tensors_that_share_memory_or_have_holes(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    state = dp.State({"a": x, "b": x.T, "c": x[:, 1]}, {"a/m": x}, {"n": torch.tensor(3), "e": x[:0]}, 2)
    assert equal(checkpoint.load(checkpoint.save(tmp_path, state, {}))[0], state)


def test_every_type_shape_and_name_comes_back(tmp_path: Path) -> None:
    z = torch.randn(4, 3).to(torch.complex64)
    params = {
        "z/last": torch.tensor([math.nan, -0.0, math.inf, 5e-324], dtype=torch.float64),
        "": torch.tensor(7, dtype=torch.uint64),
        "params/a": torch.empty(0, 3, 0),
        "ahead/1/params/ü \n": torch.tensor(True),
        "half": torch.randn(3).to(torch.bfloat16),
        "eighth": torch.randn(3).to(torch.float8_e4m3fn),
        "conjugate": z.conj(),
        "negative": z.conj().imag,
        "one negative": z[0, 0].conj().imag,
    }
    states = (dp.State(params, {}, {}, 7), dp.State({}, {}, {}, 8), dp.State(params, {"m/": z}, {"b": z}, 9))
    again, meta = checkpoint.load_window(checkpoint.save(tmp_path, Window(states), {"ö": [1e-17, None]}))
    assert same(again, Window(states)) and meta == {"ö": [1e-17, None]}
    tensors = again.states[0].params
    assert torch.equal(tensors["conjugate"], z.conj()) and torch.equal(tensors["negative"], -z.imag)
    assert tensors["one negative"] == -z[0, 0].imag


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (4, 3, 1, 1), (1, 3, 2, 2)])
def test_tensors_lie_in_memory_as_they_did(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Sums go along memory, and libraries choose by its alignment: both decide the last bit."""
    usual = torch.randn(shape)
    other = usual.to(memory_format=torch.channels_last)
    state = dp.State({"other": other, "usual": usual, "byte": torch.zeros(3, dtype=torch.uint8)}, {}, {}, 0)
    tensors = checkpoint.load(checkpoint.save(tmp_path, state, {}))[0].params
    assert torch.equal(tensors["other"], usual)
    assert [t.stride() for t in tensors.values()] == [t.stride() for t in state.params.values()]
    assert all(t.data_ptr() % 64 == 0 for t in tensors.values())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (dp.State({"a": torch.zeros(2, dtype=torch.complex128)}, {}, {}, 0), "got torch.complex128 for params/a"),
        (dp.State({}, {}, {"i": torch.eye(2).to_sparse()}, 0), "got torch.sparse_coo for buffers/i"),
        (Window((SMALL, replace(SMALL, step=3))), r"got \[1, 3\]"),
        (replace(SMALL, step=-1), r"got \[-1\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_told(tmp_path: Path, state: dp.State | Window, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path, state, {})
    assert not list(tmp_path.iterdir())


def fill(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, replace(SMALL, step=step), {}) for step in steps]


def steps_in(folder: Path) -> list[int]:
    assert {p.stem for p in folder.glob("*.json")} == {p.stem for p in folder.glob("*.safetensors")}
    return sorted(int(p.stem.removeprefix("step-")) for p in folder.glob("*.json"))


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
    path = checkpoint.save(tmp_path, SMALL, {})
    damage(path)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_an_empty_or_missing_folder_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        for find in (checkpoint.latest, checkpoint.newest):
            with pytest.raises(ValueError, match="must hold a checkpoint"):
                find(folder)
        assert checkpoint.finished(folder) == checkpoint.sweep(folder) == checkpoint.keep(folder, 1) == []
    with pytest.raises(ValueError, match=r"must be a .safetensors file"):
        checkpoint.load(tmp_path)


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


def signed(about: Mapping[str, Any]) -> bytes:
    """A description with the checksum that fits it, as a forger would make it."""
    said = {key: value for key, value in about.items() if key != "checksum"}
    text = json.dumps(json.loads(json.dumps(said)), separators=(",", ":"))
    return json.dumps(said | {"checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def forge(path: Path, data: bytes, **changes: Any) -> None:
    """Other tensors or other words, with checksums that fit."""
    about_path = path.with_suffix(".json")
    about = json.loads(about_path.read_bytes())
    about |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} | changes
    path.write_bytes(data)
    about_path.write_bytes(signed(about))


@pytest.mark.parametrize(
    "changes",
    [{"steps": steps} for steps in (None, [], 20, [True], ["20"], [20.0], [-20], [20, 22], [[20]], {"0": 20})]
    + [{"names": names} for names in (None, [], {}, ["params/a", "params/a"], ["params/b"], [1], [[]])]
    + [{"strides": strides} for strides in (None, [], {"params/a": 0}, {"params/a": [10**30, 1]})]
    + [{"strides": {"params/a": strides}} for strides in ([0, 1], [1], [1, 1], [-1, 3], ["1", 3], [True, 3])]
    + [{"threshold": threshold} for threshold in (1.5, [], "", "much", {}, True)]
    + [{"meta": meta} for meta in (None, [], 1, "{}")]
    + [{"bytes": count} for count in (None, "5", 10**400, -1, 1.5)]
    + [{"sha256": digest} for digest in (None, "", 5, "0" * 64)]
    + [{"format": name} for name in (None, [], "dreamprop-state-1", 2)],
    ids=str,
)
def test_a_description_of_other_types_is_refused_though_its_checksum_fits(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    state = dp.State({"a": torch.randn(2, 3)}, {}, {}, 20)
    path = checkpoint.save(tmp_path, state, {})
    forge(path, path.read_bytes())
    assert equal(checkpoint.load(path)[0], state)
    forge(path, path.read_bytes(), **changes)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; "):
        checkpoint.load(path)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_bytes(signed({k: v for k, v in about.items() if k not in changes}))
    with pytest.raises(ValueError, match=r"^checkpoint must .*; "):
        checkpoint.load(path)


class Trap:
    """Unpickled, it raises."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("names", [["params/a"], ["a"], ["params"], ["extra/a"], ["ahead/0/params/a"],
                                   ["ahead/1/params/a"], ["ahead//params/a"], ["ahead/01/params/a"]])  # fmt: skip
def test_foreign_tensors_with_checksums_that_fit(tmp_path: Path, names: list[str]) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})
    forge(path, to_bytes(dict.fromkeys(names, torch.ones(3))), names=names)
    if names == ["params/a"]:
        assert torch.equal(checkpoint.load(path)[0].params["a"], torch.ones(3))
        names = ["params/b"]
        forge(path, path.read_bytes(), names=names)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; "):
        checkpoint.load(path)


def header(text: str, data: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


FOREIGN = {
    "pickle": pickle.dumps(Trap()),
    "empty": b"",
    "zeros": bytes(64),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "endless header": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "no object": header("[]"),
    "unknown type": header('{"params/a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', b"\0"),
    "other type": header('{"params/a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "huge shape": header(
        '{"params/a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,3]}}', b"abc"
    ),
    "overlap": header(
        '{"params/a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        b"abc",
    ),
}
WORDS = [b"", b"{", b"\xff\xfe{}", b"null", b"[]", b'"x"', b"NaN", b"{}" * 9, b"[" * 200_000, b"1" * 5000]
WORDS += [
    b'{"a":' * 200_000,
    b'{"format":"dreamprop-state-2","steps":[' + b"9" * 5000 + b"]}",
    b"1e999",
    b"\0",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})
    forge(path, FOREIGN[name], names=["params/a"])
    with pytest.raises(ValueError, match=r"^checkpoint must .*; ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_line_break_in_a_name_stays_out_of_the_message(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})
    bad = header(
        '{"params/a\\nb":{"dtype":"U8","shape":[2],"data_offsets":[0,3]},"c":{"dtype":"U8","shape":[9],"data_offsets":[3,3]}}',
        b"abc",
    )
    forge(path, bad)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


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


STEPS = (10, 20, 30)


class Fuzz:
    """Three checkpoints of a run, and one random thing that happens to the newest one, or to the two newest."""

    def __init__(self, folder: Path) -> None:
        self.saved: dict[int, Window] = {}
        for step, window in zip(STEPS, [w for w in rounds(window=8) if len(w.states) > 2], strict=False):
            states = tuple(replace(state, step=step + i) for i, state in enumerate(window.states))
            self.saved[step] = Window(states, 0.1 * step)
            checkpoint.save(folder, self.saved[step], {"config": {"seed": step, "lr": 0.1, "on": True}})
        assert len(self.saved) == 3
        self.folder = folder
        self.files = {p.name: p.read_bytes() for p in folder.iterdir()}

    def restore(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in self.files:
                path.unlink()
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)

    def hurt(self, dice: random.Random, step: int) -> str:
        path = self.folder / f"step-{step:06d}.safetensors"
        file = dice.choice([path, path.with_suffix(".json")])
        data = file.read_bytes()
        at = dice.randrange(len(data))
        kind = dice.choice(
            ["truncate", "flip", "empty", "remove", "zeros", "foreign", "twice", "insert", "swap one", "swap both",
             "words", "forge"]
        )  # fmt: skip
        other = self.folder / f"step-{dice.choice([s for s in STEPS if s != step]):06d}{file.suffix}"
        if kind == "truncate":
            file.write_bytes(data[:at])
        elif kind == "flip":
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :])
        elif kind == "empty":
            file.write_bytes(b"")
        elif kind == "remove":
            file.unlink()
        elif kind == "zeros":  # as a machine that lost its power leaves it
            file.write_bytes(data[:at] + bytes(len(data) - at))
        elif kind == "foreign":
            file.write_bytes(dice.choice(list(FOREIGN.values()) + WORDS))
        elif kind == "twice":
            file.write_bytes(data + data)
        elif kind == "insert":
            file.write_bytes(data[:at] + bytes([dice.randrange(256)]) + data[at:])
        elif kind == "swap one":
            file.write_bytes(self.files[other.name])
        elif kind == "swap both":
            for suffix in (".safetensors", ".json"):
                path.with_suffix(suffix).write_bytes(self.files[other.with_suffix(suffix).name])
        elif kind == "words":
            about = json.loads(path.with_suffix(".json").read_bytes())
            key = dice.choice(sorted(about))
            about[key] = dice.choice([None, 10**30, -1, "x", [], [1], {}, True, 1e300, [[[]]], [10**30]])
            if dice.random() < 0.5:
                del about[key]
            path.with_suffix(".json").write_text(json.dumps(about))
        elif kind == "forge":  # other tensors with a checksum of them, but none of the words
            bad = bytearray(path.read_bytes())
            bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
            about = json.loads(path.with_suffix(".json").read_bytes())
            about["sha256"] = hashlib.sha256(bad).hexdigest()
            path.write_bytes(bad)
            path.with_suffix(".json").write_text(json.dumps(about))
        return f"{kind} {file.name}"


def test_nothing_that_happens_to_files_gives_a_wrong_result(tmp_path: Path) -> None:
    fuzz = Fuzz(tmp_path)
    told, survived = 0, 0
    for seed in range(300):
        dice = random.Random(seed)
        hurt = [[30], [30], [20, 30], [20], [10, 20, 30]][dice.randrange(5)]
        happened = [fuzz.hurt(dice, step) for step in hurt]
        for step in STEPS:
            try:
                window, meta = checkpoint.load_window(tmp_path / f"step-{step:06d}.safetensors")
                assert same(window, fuzz.saved[step]) and meta["config"]["seed"] == step, happened
                survived += step in hurt
            except ValueError as error:
                assert step in hurt and "\n" not in str(error) and len(str(error)) < 400, happened
                told += 1
        try:
            path, window, meta, damaged = checkpoint.newest(tmp_path)
            step = window.states[0].step
            assert path.name == f"step-{step:06d}.safetensors" and meta["config"]["seed"] == step
            assert same(window, fuzz.saved[step]), happened
            assert len(damaged) == sum(later > step for later in STEPS), happened
            assert all("\n" not in line and "; " not in line for line in damaged)
        except ValueError as error:
            assert len(hurt) == 3 and "\n" not in str(error), happened
        newest = max([s for s in STEPS if s not in hurt], default=0)
        checkpoint.keep(tmp_path, 1)
        if newest == 30:
            assert checkpoint.newest(tmp_path).window.states[0].step == 30
        fuzz.restore()
    assert told > 300
    # a flipped bit in the layout of the JSON, or in the case of a \u escape, changes nothing that it says
    assert survived < 15


def test_every_bit_of_a_description_counts(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, Window((SMALL, replace(SMALL, step=2)), 27.5), {"lr": 0.1})
    text = path.with_suffix(".json").read_bytes()
    said, spared = from_json(text), 0
    for at in range(len(text)):
        for bit in range(8):
            try:
                again = from_json(text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :])
            except checkpoint.Damaged:
                continue
            assert again == said and list(again) == list(said)
            spared += 1
    assert spared < 0.01 * 8 * len(text), "only what lays the text out"


def test_saved_tensors_are_not_those_of_the_run(tmp_path: Path) -> None:
    state = clone(SMALL)
    path = checkpoint.save(tmp_path, state, {})
    again, _ = checkpoint.load(path)
    again.params["a"].add_(1)
    assert equal(state, SMALL) and equal(checkpoint.load(path)[0], SMALL)
