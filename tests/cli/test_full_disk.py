"""A disk that refuses, and files that vanish: one line, and what was there stays as it was."""

import errno
import os
import resource
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from dreamprop import checkpoint
from dreamprop.cli import main
from dreamprop.config.loader import InputError
from dreamprop.solver.window import Window
from dreamprop.state import Drift, State
from dreamprop.utils import atomic_io
from tests.cli import toy
from tests.cli.runs import FOLDER, TOY, Cli, Refused


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
        log.on_round(Round(1, 2, 1, [0.0], 1, 1, 0.1, 0, []))  # type: ignore[arg-type]


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
