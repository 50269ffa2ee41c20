"""The command line with threestudio's configs."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop.cli import main
from dreamprop.runs.summary import SUMS
from dreamprop.threestudio import loading

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
    found = loading.extensions(custom)
    assert found == ["good_extension_of_mine", str(custom / "one")]
    assert sys.modules["good_extension_of_mine"].part.value == 3
    assert sys.dreamprop_was_here  # type: ignore[attr-defined]
    assert "broken" in capsys.readouterr().err
    assert loading.extensions(tmp_path / "none") == []


def checkout(folder: Path) -> Path:
    """A folder that looks like the checkout; what a run writes stays in it."""
    made = folder / "checkout"
    if not made.exists():
        made.mkdir()
        for name in ("threestudio", "extern", "load"):
            (made / name).symlink_to(Path(upstream.ROOT) / name)
        (made / "custom").mkdir()
        shutil.copy(Path(__file__).with_name("extension.py"), made / "custom")
    return made


def launch(
    folder: Path,
    *arguments: str,
    ranks: int = 1,
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [
        sys.executable,
        *(several if ranks > 1 else ()),
        str(LAUNCH),
        "--threestudio",
        str(checkout(folder)),
    ]
    return run([*command, *arguments], folder, meanwhile, **variables)


def run(
    command: list[str],
    folder: Path,
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    own["OMP_WAIT_POLICY"] = (
        "passive"  # where several threads are used on a busy machine, waiting takes no core
    )
    environment = {**os.environ, **own, **variables}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        try:
            if meanwhile is not None:
                meanwhile(process)
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


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
    further = place.with_name("further")
    assert (further / "ckpts" / "epoch=0-step=9.ckpt").is_file()
    # the lines of the first eight steps are in another folder, so that no sum is known
    assert "metrics.csv must hold the rounds up to step 8, got 0 of them" in on.stderr
    summary = json.loads((further / "summary.json").read_text())
    assert summary["steps"] == 9 and all(summary[key] is None for key in SUMS)


@upstream.needs_checkout
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("system.geometry_type=foo", "system.geometry_type must be registered with threestudio, got 'foo'"),
        (
            "trainer.max_stepz=3",
            "trainer.max_stepz is no setting of Lightning's trainer; did you mean max_steps",
        ),
        ("trainer.max_steps=null", "trainer.max_steps must be an integer > 0, got none"),
        ("parallel.window=0", "parallel.window must be a whole number >= 1"),
        ("system.renderer.estimator=proposal", "its network is trained inside the step"),
        ("system_type=warm-up-system", "optimizer_step must be Lightning's own, got WarmUp.optimizer_step"),
        ("system_type=forgetful-system", "steps also write losses, which cannot be put back"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(wrong: str, words: str, folder: Path) -> None:
    done = launch(folder, *small(folder, "tag=wrong", wrong), "--train")
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and words in told[0]
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).count(words) == 1
    assert "dreamprop." not in done.stderr and "threestudio." not in told[0]


@upstream.needs_checkout
@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_two_processes_share_a_run(folder: Path, layout: str) -> None:
    """The first one writes what one alone would have written."""
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    more = ("trainer.max_steps=8", "trainer.val_check_interval=4", "trainer.gradient_clip_val=0.01")
    more += ("checkpoint.every_n_train_steps=4",)
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
    kept = [place / f"{layout}{ranks}" / "ckpts" / "epoch=0-step=4.ckpt" for ranks in (1, 2)]
    first, second = (torch.load(path, weights_only=True)["dreamprop"]["ahead"] for path in kept)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(value, b[part][name]) for part in a for name, value in a[part].items())
    assert json.loads((place / f"{layout}2" / "summary.json").read_text())["world_size"] == 2
    assert (place / f"{layout}2" / "save" / "it8-test.mp4").is_file()


@upstream.needs_checkout
def test_memory_that_wakes_later_ends_the_run(folder: Path) -> None:
    """In a line, with what was accepted on the disk."""
    more = ("tag=sleepy", "system_type=sleepy-system", "trainer.max_steps=30")
    done = launch(folder, *small(folder, *more), "--train", "parallel.window=4")
    assert done.returncode == 1, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "must be a function of its state" in line]
    assert 9 < int(line.split()[1]) <= 16 and "steps also write losses" in line
    assert Path(line.rpartition("saved ")[2]).is_file()
    assert "Traceback" not in done.stderr


@upstream.needs_checkout
def test_without_weights_or_a_hub_the_error_comes_at_once(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls, and never answers
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = launch(
            folder,
            *small(folder, "tag=far", "system.guidance.pretrained_model_name_or_path=somebody/model"),
            "--train",
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT=hub,
            HF_HOME=str(tmp_path),
        )
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "system.guidance.pretrained_model_name_or_path must be a folder" in line
    assert f"got somebody/model, which is not in {tmp_path}" in line and f"{hub} does not answer" in line
    assert "Retrying" not in done.stderr


@upstream.needs_checkout
def test_a_stopped_run_goes_on_by_the_command_it_prints(folder: Path) -> None:
    """To the same bits, accelerated, as if it had never stopped."""
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    steps = (
        "trainer.max_steps=12",
        "parallel.window=4",
        "parallel.tolerance=0.3",
        "trainer.val_check_interval=6",
    )
    whole = launch(folder, *small(folder, "tag=whole", *steps), "--train")
    assert whole.returncode == 0, whole.stderr
    assert "window 4: step 12/12" in whole.stderr and "/6," not in whole.stderr
    place = folder / "outputs" / "dreamfusion-sd"
    rows = place / "part" / "metrics.csv"

    def stop(process: subprocess.Popen[str]) -> None:
        while not rows.is_file() or len(rows.read_text().splitlines()) < 4:
            assert process.poll() is None, "it ended before it could be stopped"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)

    stopped = launch(folder, *small(folder, "tag=part", *steps), "--train", meanwhile=stop)
    assert stopped.returncode == 1, stopped.stderr
    printed = shlex.split(stopped.stderr.splitlines()[-1])
    assert printed[:2] == ["python", "launch.py"]
    assert "system.prompt_processor.prompt=a red torus" in printed
    kept = torch.load(printed[-1].removeprefix("resume="), weights_only=True)
    assert 0 < kept["global_step"] < 12 and kept["dreamprop"]["ahead"]
    again = run([sys.executable, str(LAUNCH), *printed[2:]], Path.home())
    assert again.returncode == 0, again.stderr
    one, two = (
        torch.load(place / tag / "ckpts" / "last.ckpt", weights_only=True) for tag in ("whole", "part")
    )
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
