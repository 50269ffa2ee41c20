"""What cannot be resumed is refused in one line: no checkpoint, a damaged one, or that of another run."""

import hashlib
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dreamprop import checkpoint
from dreamprop.checkpoint import format
from dreamprop.process import Process
from dreamprop.rng import generator
from dreamprop.solver.window import Window
from dreamprop.state import State
from tests.cli import toy
from tests.cli.runs import FOLDER, Cli, Refused, contents
from tests.cli.shipped import REPOSITORY


def test_resume_without_a_checkpoint(cli: Cli, refused: Refused, place: Path) -> None:
    assert "nowhere" in refused(cli("--train", "--resume", "nowhere"))
    assert "nowhere" in refused(cli("--export", "--resume", "nowhere"))
    (place / "empty").mkdir()
    assert "empty" in refused(cli("--train", "--resume", "empty"))


@pytest.mark.parametrize("resume", ["x" * 300, "x\0y", "toy.yaml/below"])
def test_a_run_that_cannot_be(cli: Cli, refused: Refused, resume: str) -> None:
    for verb in ("--train", "--export"):
        refused(cli(verb, "--resume", resume))


def test_a_checkpoint_of_another_run_is_refused(cli: Cli, refused: Refused) -> None:
    assert cli("--train") == 0
    before = contents(FOLDER)
    line = refused(cli("--train", "--resume", str(FOLDER), "system.guidance.guidance_scale=3"))
    assert "system.guidance.guidance_scale is 3.0" in line and "10.0" in line and "config.yaml" in line
    assert "seed is 5" in refused(cli("--train", "--resume", str(FOLDER), "seed=5"))
    line = refused(cli("--train", "--resume", str(FOLDER), "trainer.max_steps=20"))
    assert "trainer.max_steps must be >= 40" in line
    assert contents(FOLDER) == before


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "text", "no description"])
def test_a_damaged_checkpoint_is_one_line(cli: Cli, refused: Refused, damage: str) -> None:
    assert cli("--train", "checkpoint.every_n_train_steps=0") == 0
    path = checkpoint.latest(FOLDER / "checkpoints")
    data = path.read_bytes()
    changed = {
        "truncated": data[: len(data) // 2],
        "emptied": b"",
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "text": b"not tensors",
        "no description": data,
    }
    path.write_bytes(changed[damage])
    if damage == "no description":
        path.with_suffix(".json").write_text("{")
    before = contents(FOLDER)
    for verb in ("--train", "--export"):
        refused(cli(verb, "--resume", str(FOLDER)))
    assert contents(FOLDER) == before


def changed(tamper: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """The newest checkpoint of the toy's run, tampered with and given the checksums of what it says now."""
    path = checkpoint.latest(FOLDER / "checkpoints")
    tensors = safetensors.torch.load_file(path)
    about = json.loads(path.with_suffix(".json").read_text())
    del about["checksum"]
    tamper(about, tensors)
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    about |= {"names": sorted(tensors), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_bytes(data)
    path.with_suffix(".json").write_bytes(format.to_json(about))
    return path


def put(name: str, value: torch.Tensor) -> Callable[[dict, dict], None]:
    return lambda about, tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (put("params/radius", torch.tensor([torch.nan])), "finite params, got NaN or Inf in radius"),
        (put("moments/radius/exp_avg", torch.tensor([torch.inf])), "finite moments"),
        (put("params/radius", torch.tensor([1])), "params radius as float32 (1,), got int64 (1,)"),
        (put("params/color", torch.zeros(4)), "params color as float32 (3,), got float32 (4,)"),
        (put("params/more", torch.zeros(4)), "params of its process, got them with more"),
        (put("buffers/more", torch.zeros(4)), "buffers of its process, got them with more"),
        (put("moments/more", torch.zeros(4)), "moments of its process, got them with more"),
        (put("moments//skipped", torch.zeros(2)), "moments /skipped as int64 ()"),
        (put("trend/more", torch.zeros(4)), "trend of its process, got them with more"),
        (lambda about, tensors: tensors.pop("params/color"), "params of its process, got them without color"),
        (lambda about, tensors: tensors.pop("moments/color/exp_avg"), "got them without color/exp_avg"),
        (lambda about, tensors: about.update(threshold="nan"), "got other fields"),
        (lambda about, tensors: about.update(threshold="-1"), "got other fields"),
        (
            lambda about, tensors: about.update(steps=[40, 41, 42]),
            "params of its process, got them without color",
        ),
        (lambda about, tensors: about["meta"].update(config=3), "must hold a config, got 3"),
        (lambda about, tensors: about["meta"].clear(), "must hold a config, got None"),
    ],
)
def test_a_checkpoint_of_other_content_is_refused(
    cli: Cli, refused: Refused, capsys: pytest.CaptureFixture[str], tamper: Any, words: str
) -> None:
    assert cli("--train") == 0
    path = changed(tamper)
    before = contents(FOLDER)
    for verb in ("--train", "--export"):
        line = refused(cli(verb, "--resume", str(path)))
        assert words in line and path.name.removesuffix(".safetensors") in line and len(line) < 300
    assert contents(FOLDER) == before
    # of a folder, the newest that is sound
    assert cli("--train", "--resume", str(FOLDER)) == 0
    assert words in capsys.readouterr().err


def test_a_checkpoint_behind_a_boundary_has_the_shapes_from_there_on() -> None:
    from dreamprop.checkpoint.expected import Expected
    from dreamprop.methods.factory import make_field, make_optimizer
    from dreamprop.runs import experiment

    config = experiment.load(
        REPOSITORY / "configs" / "dreamfusion.yaml",
        ["system.geometry.resolution=[8,12]", "system.geometry.resolution_milestones=[5]"],
    ).config
    field = make_field(config.system)
    optimizer = make_optimizer(config.system.optimizer, "volume-grid", field.groups())

    class Growing(Process):
        boundaries = (5,)

        def init(self) -> State:
            params, buffers = field.init(generator(0, 0, "init"))
            return State(params, optimizer.init(params), buffers, 0)

        def predict(self, state: State) -> State:
            params, moments = optimizer.predict(state.params, state.moments, state.step)
            if state.step + 1 == 5:
                params, moments = field.grow(params, moments, 12)
            buffers = field.update_occupancy(
                params, state.buffers, state.step + 1, generator(0, 0, "occupancy")
            )
            return State(params, moments, buffers, state.step + 1)

    process = Growing()
    small = process.init()
    large = process.predict(replace(small, step=4))
    large = replace(large, moments={n: m for n, m in large.moments.items() if not n.startswith("/")})
    expected = Expected.of(process, 5)
    expected.check(Window((replace(small, step=4), replace(large, moments={}))))
    expected.check(Window((large,)))
    for wrong in (replace(small, step=5), replace(large, step=4)):
        with pytest.raises(checkpoint.Damaged, match="params"):
            expected.check(Window((wrong,)))


def test_a_checkpoint_is_looked_at_when_nothing_else_fills_the_memory(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process's own states, which say what it must hold, are gone when its tensors are read."""
    assert cli("--train", "trainer.max_steps=20") == 0
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    first, read = toy.Toy.init, format.unpack

    def init(self: toy.Toy) -> State:
        state = first(self)
        made.extend(weakref.ref(t) for part in (state.params, state.moments) for t in part.values())
        return state

    def unpack(*args: Any) -> Window:
        alive.append(sum(tensor() is not None for tensor in made))
        return read(*args)

    monkeypatch.setattr(toy.Toy, "init", init)
    monkeypatch.setattr("dreamprop.checkpoint.io.unpack", unpack)
    assert cli("--train", "--resume", str(FOLDER)) == 0
    assert made and alive == [0]
