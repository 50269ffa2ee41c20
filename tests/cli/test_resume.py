"""A run that is resumed goes on as if it had never stopped, and so do the files it writes."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from dreamprop import checkpoint
from dreamprop.cli import main
from dreamprop.runs.summary import SUMS
from tests.cli.runs import FOLDER, Cli, same, summary


@pytest.mark.parametrize("flags", [["--baseline"], []])
def test_a_resumed_run_equals_the_uninterrupted_one(cli: Cli, flags: list[str]) -> None:
    assert cli("--train", *flags, "tag=whole", "parallel.tolerance=0") == 0
    part = Path("outputs/toy/part")
    assert cli("--train", *flags, "tag=part", "parallel.tolerance=0", "trainer.max_steps=17") == 0
    again = ["--config", str(part / "config.yaml"), "--train", *flags, "--resume", str(part)]
    assert main([*again, "trainer.max_steps=40"]) == 0
    assert same(Path("outputs/toy/whole"), part)
    assert summary(part)["steps"] == 40
    assert summary(part)["wall_seconds"] > 0
    with (part / "metrics.csv").open() as file:
        assert sum(int(row["stride"]) for row in csv.DictReader(file)) == 40


def test_a_finished_run_can_be_resumed_to_draw_it_again(cli: Cli) -> None:
    assert cli("--train") == 0
    (FOLDER / "views.png").unlink()
    assert cli("--train", "--resume", str(FOLDER)) == 0
    assert (FOLDER / "views.png").exists()
    assert summary(FOLDER)["steps"] == 40


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
