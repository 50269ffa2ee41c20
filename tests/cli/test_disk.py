"""A disk that refuses and checkpoints that are damaged: one line, and what was there stays as it was."""

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dreamprop import checkpoint
from dreamprop.checkpoint import format
from dreamprop.cli import main
from dreamprop.config.loader import InputError
from dreamprop.process import Process
from dreamprop.rng import generator
from dreamprop.runs import directory
from dreamprop.runs.summary import SUMS
from dreamprop.solver.window import Window
from dreamprop.state import Drift, State
from dreamprop.utils import atomic_io
from tests.cli import toy

REPOSITORY = Path(__file__).parents[2]

Cli = Callable[..., int]
Refused = Callable[[int], str]
TOY = [sys.executable, str(Path(__file__).with_name("toy.py")), "--config", "toy.yaml"]
FOLDER = Path("outputs/toy/a_red_sphere")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("root", ["/proc/outputs", "/sys/outputs", "toy.yaml/outputs", "x" * 300])
def test_an_output_folder_that_cannot_be_made(cli: Cli, refused: Refused, place: Path, root: str) -> None:
    line = refused(cli("--train", f"exp_root_dir={root}"))
    assert root in line and "exp_root_dir=FOLDER" in line
    assert [p.name for p in place.iterdir()] == ["toy.yaml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(cli: Cli, refused: Refused) -> None:
    Path("outputs").mkdir()
    Path("outputs").chmod(0o555)
    assert "Permission denied" in refused(cli("--train"))


def test_runs_that_start_at_the_same_time_do_not_share_a_folder(place: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: directory.claim(place / "outputs", "toy", "same"), range(24)))
    assert len(set(found)) == 24 and all(path.parent == place / "outputs" / "toy" for path in found)


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(
    cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, full = checkpoint.save, []

    def saving(folder: Path, window: Window, meta: dict) -> Path:
        if window.states[0].step >= 25:
            full.append(True)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(folder, window, meta)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", saving)
        line = refused(cli("--train", "--baseline"))
    assert full and "No space left on device" in line and "free some space" in line
    assert "step-000020.safetensors is kept" in line and "--resume outputs/toy/a_red_sphere" in line
    assert not list(FOLDER.rglob(".partial*"))
    assert checkpoint.load(checkpoint.latest(FOLDER / "checkpoints"))[0].step == 20


def test_a_limit_on_file_size_is_a_full_disk(place: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    arguments = [*TOY, "--train", "--baseline", "trainer.max_steps=200"]
    done = subprocess.run(
        arguments, preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "File too large" in errors[0]
    assert "Traceback" not in done.stderr or find_spec("tensorboard")  # whose thread says so too
    assert not list(FOLDER.rglob(".partial*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_metrics(cli: Cli, refused: Refused) -> None:
    FOLDER.mkdir(parents=True)
    from dreamprop.runs.metrics import RoundLog
    from dreamprop.solver.solution import Round

    log = RoundLog(FOLDER)
    log._file.close()
    log._file = open("/dev/full", "w", newline="")  # noqa: SIM115
    log._writer.writer = __import__("csv").writer(log._file)
    with pytest.raises(InputError, match="No space left on device"), log:
        log.on_round(Round(1, 2, 1, [0.0], None, 1, 0.1, 0))  # type: ignore[arg-type]


def test_a_file_is_replaced_whole_or_not_at_all(place: Path) -> None:
    path = place / "value.json"
    atomic_io.write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        atomic_io.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic_io.replacing(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert sorted(p.name for p in place.iterdir()) == ["toy.yaml", "value.json"]


def test_resume_without_a_checkpoint(cli: Cli, refused: Refused, place: Path) -> None:
    assert "nowhere" in refused(cli("--train", "--resume", "nowhere"))
    assert "nowhere" in refused(cli("--export", "--resume", "nowhere"))
    (place / "empty").mkdir()
    assert "empty" in refused(cli("--train", "--resume", "empty"))


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


def test_a_moved_run_can_be_resumed(cli: Cli, place: Path) -> None:
    assert cli("--train", "trainer.max_steps=20") == 0
    shutil.move(FOLDER, place / "moved")
    assert (
        main(["--config", "moved/config.yaml", "--train", "--resume", "moved", "trainer.max_steps=40"]) == 0
    )
    assert checkpoint.load(checkpoint.latest(place / "moved" / "checkpoints"))[0].step == 40
    assert not FOLDER.exists()


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"round,step\n\x00\n", None, b"", "cut", "gap", "nan"])
def test_metrics_that_are_damaged_stop_no_run(
    cli: Cli, capsys: pytest.CaptureFixture[str], damage: bytes | str | None
) -> None:
    assert cli("--train", "trainer.max_steps=20") == 0
    path = FOLDER / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    columns = lines[0].split(",")
    if damage is None:
        path.unlink()
    elif damage == "cut":
        path.write_text("".join(lines)[:-30])
    elif damage == "gap":
        path.write_text("".join([lines[0], *lines[2:]]))
    elif damage == "nan":
        cells = lines[1].split(",")
        cells[columns.index("seconds")] = "nan"
        path.write_text("".join([lines[0], ",".join(cells), *lines[2:]]))
    else:
        path.write_bytes(damage)
    capsys.readouterr()
    assert cli("--train", "--resume", str(FOLDER)) == 0
    told = capsys.readouterr()
    assert "metrics.csv must hold the rounds up to step 20" in told.err and "not known" in told.out
    summary = json.loads((FOLDER / "summary.json").read_text())
    assert all(summary[key] is None for key in SUMS)
    assert summary["steps"] == 40


def test_sums_go_over_a_resume(cli: Cli) -> None:
    assert cli("--train", "trainer.max_steps=20") == 0
    assert cli("--train", "--resume", str(FOLDER)) == 0
    summary = json.loads((FOLDER / "summary.json").read_text())
    assert summary["rounds"] == len((FOLDER / "metrics.csv").read_text().splitlines()) - 1


def test_the_config_of_a_run_is_that_of_its_last_resume(cli: Cli, place: Path) -> None:
    assert cli("--train", "trainer.max_steps=20", "tag=mine") == 0
    run = place / "outputs" / "toy" / "mine"
    before = (run / "config.yaml").read_text()
    assert cli("--train", "--resume", str(run), "trainer.max_steps=30", "parallel.window=3") == 0
    after = (run / "config.yaml").read_text()
    assert after == before.replace("max_steps: 20", "max_steps: 30").replace("window: 8", "window: 3")
    # the printed way to go on
    assert main(["--config", str(run / "config.yaml"), "--train", "--resume", str(run)]) == 0
    assert (run / "config.yaml").read_text() == after


def test_a_second_process_in_a_folder_is_refused(cli: Cli, refused: Refused) -> None:
    assert cli("--train") == 0
    arguments = ["--train", "--resume", str(FOLDER)]
    before = contents(FOLDER)
    with directory.held(FOLDER):
        line = refused(cli(*arguments))
        assert "one process at a time" in line and str(FOLDER) in line
    assert contents(FOLDER) == before
    assert cli(*arguments) == 0
    # one that is dead holds nothing
    code = "import os, sys; from dreamprop.runs.directory import Path, held; a = held(Path(sys.argv[1]))"
    code += "; a.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(FOLDER)], check=False).returncode == 9
    assert (FOLDER / ".lock").exists()
    assert cli(*arguments) == 0
    assert not (FOLDER / ".lock").exists()


def test_files_that_vanish_under_a_run_are_told_and_written_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = toy.Toy.update

    def losing(self: toy.Toy, state: State, drift: Drift) -> State:
        if state.step == 15 and FOLDER.exists():
            shutil.rmtree(FOLDER)
        return update(self, state, drift)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Toy, "update", losing)
        assert cli("--train", "--baseline") == 0
    told = capsys.readouterr().err
    assert "metrics.csv vanished" in told and "config.yaml vanished" in told
    assert len((FOLDER / "metrics.csv").read_text().splitlines()) == 41
    assert main(["--config", str(FOLDER / "config.yaml"), "--train", "--resume", str(FOLDER)]) == 0
