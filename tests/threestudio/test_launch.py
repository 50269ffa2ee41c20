"""The command line with threestudio's configs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamprop.cli import main
from dreamprop.threestudio import build

from . import upstream

LAUNCH = Path(__file__).parents[2] / "launch.py"


def config(folder: Path, text: str) -> Path:
    path = folder / "theirs.yaml"
    path.write_text(text)
    return path


def test_a_config_of_theirs_is_known_by_its_data_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, "name: x\ndata_type: random-camera-datamodule\nsystem_type: dreamfusion-system\n")
    missing = tmp_path / "nowhere"
    assert main(["--config", str(path), "--train", "--threestudio", str(missing)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "threestudio" in said


def test_theirs_verbs_are_not_for_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, "name: x\n")
    assert main(["--config", str(path), "--validate"]) == 2
    assert "add --threestudio DIR" in capsys.readouterr().err


def test_extensions_are_imported_as_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    custom = tmp_path / "custom"
    (custom / "good_extension_of_mine").mkdir(parents=True)
    (custom / "good_extension_of_mine" / "__init__.py").write_text("from . import part\n")
    (custom / "good_extension_of_mine" / "part.py").write_text("value = 3\n")
    (custom / "off_disabled").mkdir()
    (custom / "one.py").write_text("import sys; sys.dreamprop_was_here = True\n")
    (custom / "broken.py").write_text("raise RuntimeError('broken')\n")
    (custom / "put_custom_extensions_here").write_text("")
    found = build.extensions(custom)
    assert found == ["good_extension_of_mine", str(custom / "one")]
    assert sys.modules["good_extension_of_mine"].part.value == 3
    assert sys.dreamprop_was_here  # type: ignore[attr-defined]
    assert "broken" in capsys.readouterr().err
    assert build.extensions(tmp_path / "none") == []


def checkout(folder: Path) -> Path:
    """A folder that looks like the checkout; what a run writes stays in it."""
    made = folder / "checkout"
    if not made.exists():
        made.mkdir()
        for name in ("threestudio", "extern", "load", "custom"):
            (made / name).symlink_to(Path(upstream.ROOT) / name)
    return made


def launch(folder: Path, *arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [
            *(sys.executable, *(several if ranks > 1 else ())),
            *(str(LAUNCH), "--threestudio", str(checkout(folder)), *arguments),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
    )


def small(folder: Path, *more: str) -> list[str]:
    path, arguments = upstream.reduced(
        "dreamfusion-sd",
        folder,
        *("data.eval_width=16", "data.eval_height=16", "data.n_val_views=1", "data.n_test_views=4"),
        f"system.guidance.pretrained_model_name_or_path={folder / 'sd'}",
        *more,
    )
    return ["--config", path.name, *arguments]


@upstream.needs_checkout
def test_a_run_writes_what_threestudio_writes(folder: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    done = launch(
        folder,
        *small(folder, "tag=run", "trainer.max_steps=8", "trainer.val_check_interval=4"),
        *("--train", "parallel.window=4"),
    )
    assert done.returncode == 0, done.stderr
    assert "a step is a function of its state" in done.stdout
    place = folder / "outputs" / "dreamfusion-sd" / "run"
    for name in ("ckpts/last.ckpt", "ckpts/epoch=0-step=8.ckpt", "configs/parsed.yaml", "configs/raw.yaml"):
        assert (place / name).is_file(), name
    for name in ("save/it4-0.png", "save/it8-0.png", "save/it8-test/3.png", "save/it8-test.mp4", "cmd.txt"):
        assert (place / name).is_file(), name
    with (place / "csv_logs" / "version_0" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row.get("train/loss_sds")]
    assert [int(row["step"]) for row in logged] == list(range(8))
    summary = json.loads((place / "summary.json").read_text())
    assert summary["steps"] == 8
    assert summary["rounds"] < 8

    again = launch(folder, *small(folder, "tag=again"), "--validate", f"resume={place}/ckpts/last.ckpt")
    assert again.returncode == 0, again.stderr
    assert (folder / "outputs" / "dreamfusion-sd" / "again" / "save" / "it8-0.png").is_file()

    on = launch(
        folder,
        *small(folder, "tag=further", "trainer.max_steps=9"),
        *("--train", "--baseline", "--resume", str(place / "ckpts" / "last.ckpt")),
    )
    assert on.returncode == 0, on.stderr
    assert (folder / "outputs" / "dreamfusion-sd" / "further" / "ckpts" / "epoch=0-step=9.ckpt").is_file()


@upstream.needs_checkout
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("system.geometry_type=foo", "KeyError: 'foo'"),
        (
            "trainer.max_stepz=3",
            "TypeError: Trainer.__init__() got an unexpected keyword argument 'max_stepz'",
        ),
        ("system.nonsense=3", "got an unexpected keyword argument 'nonsense'"),
        ("parallel.window=0", "parallel.window must be a whole number >= 1"),
        ("system.renderer.estimator=proposal", "its network is trained inside the step"),
    ],
)
def test_what_is_refused_there_is_refused_here(wrong: str, words: str, folder: Path) -> None:
    done = launch(folder, *small(folder, "tag=wrong", wrong), "--train")
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and words in told[0]
    assert "Traceback" not in done.stderr


@upstream.needs_checkout
@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_two_processes_share_a_run(folder: Path, layout: str) -> None:
    """The first one writes what one alone would have written."""
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    more = ("trainer.max_steps=8", "trainer.val_check_interval=4", "trainer.gradient_clip_val=0.01")
    for ranks in (1, 2):
        options = small(folder, f"tag={layout}{ranks}", *more)
        solved = (
            "parallel.window=4",
            "parallel.evaluator=null",
            f"parallel.layout={layout}",
            "parallel.sub_batch=1",
        )
        done = launch(folder, *options, "--train", *solved, ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("a step is a function of its state") == 1
        assert done.stdout.count("writing to") == 1
    place = folder / "outputs" / "dreamfusion-sd"
    one, two = (
        torch.load(place / f"{layout}{ranks}" / "ckpts" / "last.ckpt", weights_only=True) for ranks in (1, 2)
    )
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    assert json.loads((place / f"{layout}2" / "summary.json").read_text())["world_size"] == 2
    assert (place / f"{layout}2" / "save" / "it8-test.mp4").is_file()
