"""Files that were damaged are refused in one line, and never give a wrong result."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreamprop import checkpoint
from dreamprop.checkpoint.format import from_json
from dreamprop.solver.window import Window
from tests.checkpoint.files import flip, truncate
from tests.checkpoint.foreign_files import FOREIGN, WORDS
from tests.checkpoint.windows import SMALL, rounds, same


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


STEPS = (10, 20, 30)


class Fuzz:
    """Three checkpoints of a run, and one random thing that happens to the newest one, or to the two newest."""

    def __init__(self, folder: Path) -> None:
        self.saved: dict[int, Window] = {}
        for step, window in zip(
            STEPS, [w for w in rounds(window=8, predictor="hold") if len(w.states) > 2], strict=False
        ):
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
