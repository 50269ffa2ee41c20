"""A disk that refuses and checkpoints that are damaged: one line, and what was there stays as it was."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dreamprop import checkpoint, files, folder
from dreamprop.cli import main
from dreamprop.config import InputError
from dreamprop.window import Window

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
        found = list(pool.map(lambda _: folder.claim(place / "outputs", "toy", "same"), range(24)))
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
    assert len(errors) == 1 and "File too large" in errors[0] and "Traceback" not in done.stderr
    assert not list(FOLDER.rglob(".partial*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_metrics(cli: Cli, refused: Refused) -> None:
    FOLDER.mkdir(parents=True)
    from dreamprop.roundlog import RoundLog
    from dreamprop.solution import Round

    log = RoundLog(FOLDER)
    log._file.close()
    log._file = open("/dev/full", "w", newline="")  # noqa: SIM115
    log._writer.writer = __import__("csv").writer(log._file)
    with pytest.raises(InputError, match="No space left on device"), log:
        log.add(Round(1, 2, 1, [0.0], None, 1, 0.1, 0))  # type: ignore[arg-type]


def test_a_file_is_replaced_whole_or_not_at_all(place: Path) -> None:
    path = place / "value.json"
    files.write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), files.replacing(path) as beside:
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
