"""``--compare`` with threestudio's configs: three runs from one start, and a report of what their tests show."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dreamprop.config.loader import InputError
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.outcome import VIEWS
from dreamprop.runs.threestudio.compare import compare
from dreamprop.runs.threestudio.views import FRAMES, WIDTH, read_views

from . import upstream
from .test_launch import launch, small

KEYS = {"baseline": "baseline", "accelerated": ".", "other_noise": "other_noise"}
CONTRACT = {
    "prompt", "method", "steps", "rounds", "drifts", "speedup_rounds", "wall_seconds", "seconds_per_step", "window",
    "tolerance", "evaluator", "world_size", "device", "dtype", "seed", "versions",
}  # fmt: skip


def test_whole_pictures_of_a_test_are_read_in_order(tmp_path: Path) -> None:
    assert len(read_views(tmp_path).views) == 0
    (tmp_path / "it8-test").mkdir()
    for i in range(40):
        image = Image.new("RGB", (3 * 200, 200), (5 * i, 0, 255))
        image.paste((255, 255, 255), (10 * i, 100, 10 * i + 10, 200))
        image.save(tmp_path / "it8-test" / f"{i}.png")
    shown = read_views(tmp_path)
    assert len(shown.views) == VIEWS and all(view.shape == (3, 200, 600) for view in shown.views)
    assert [int(view[0, 0, 0]) for view in shown.views] == [5 * (40 * i // VIEWS) for i in range(VIEWS)]
    assert all(view.dtype == torch.uint8 and int(view[2].min()) == 255 for view in shown.views)
    with Image.open(io.BytesIO(shown.turntable)) as turn:
        assert turn.n_frames == FRAMES and turn.size == (WIDTH, WIDTH // 3)
    with Image.open(io.BytesIO(shown.sheet)) as sheet:
        assert sheet.size == (3 * WIDTH, 2 * WIDTH // 3)


def test_a_comparison_starts_afresh(tmp_path: Path) -> None:
    from dreamprop.cli.threestudio import _compare
    from dreamprop.runs.config import ParallelConfig

    (tmp_path / "save").mkdir()

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing should be run")

    with pytest.raises(InputError, match=r"tag must name a new folder for --compare, got .*; choose"):
        compare(tmp_path, "a red torus", 0, train, Communicator())
    studio = SimpleNamespace(resume="last.ckpt")
    with pytest.raises(InputError, match=r"--compare starts afresh, got resume=last.ckpt; drop it"):
        _compare(tmp_path, studio, ParallelConfig(), torch.device("cpu"), Communicator())


@upstream.needs_checkout
def test_three_runs_and_a_report(folder: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    done = launch(
        folder, *small(folder, "tag=compared", "trainer.max_steps=8"), "--compare", "parallel.window=4"
    )
    assert done.returncode == 0, done.stderr
    place = folder / "outputs" / "dreamfusion-sd" / "compared"
    report = json.loads((place / "report.json").read_text())
    assert (
        report["accelerated"]["rounds"] < 8 == report["baseline"]["rounds"] == report["other_noise"]["rounds"]
    )
    assert report["speedup_rounds"] == 8 / report["accelerated"]["rounds"]
    assert report["speedup_wall"] > 0 and report["views"] == 4 and not report["identical"]
    assert 0 < report["ssim"] <= 1 and report["psnr_db"] > report["seed_noise_psnr_db"] > 0
    first = {}
    for key, below in KEYS.items():
        run, summary = place / below, report[key]
        assert summary.keys() >= CONTRACT and summary == json.loads((run / "summary.json").read_text())
        assert summary["steps"] == 8 and summary["seed"] == (1 if key == "other_noise" else 0)
        assert summary["window"] == (4 if key == "accelerated" else 1) and summary["dtype"] == "float32"
        assert (run / "save" / "it8-test.mp4").is_file() and (run / "metrics.csv").is_file()
        kept = torch.load(run / "ckpts" / "last.ckpt", weights_only=True)
        [(name, grid)] = report["occupied"][key].items()
        assert grid == {"cells": int(kept["state_dict"][name].sum()), "of": kept["state_dict"][name].numel()}
        with (run / "csv_logs" / "version_0" / "metrics.csv").open() as file:
            first[key] = next(
                float(row["train/loss_sparsity"]) for row in csv.DictReader(file) if row["step"] == "0"
            )
    # one start and, but for the yardstick, the same draws: the first step renders the same
    assert first["baseline"] == first["accelerated"] != first["other_noise"]

    page = (place / "report.html").read_text()
    images = re.findall(r'src="data:image/(gif|png);base64,([^"]+)"', page)
    assert [kind for kind, _ in images] == ["gif"] * 3 + ["png"] * 3
    for _, content in images:
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.load()
    assert page.count("<svg") == 2 and "train/loss_sds" in page and "renderer.estimator.binaries" in page
    assert "audit: drifts used" in page and "a red torus" in page and 'src="http' not in page

    from .test_oracle import lightning

    on, trainer = lightning(
        upstream.studio("dreamfusion-sd", folder), 9, resume=place / "baseline/ckpts/last.ckpt"
    )
    assert trainer.global_step == 9 and on.state_dict().keys() == kept["state_dict"].keys()


@upstream.needs_checkout
def test_processes_share_the_accelerated_run_alone(folder: Path) -> None:
    """The first of them makes the others when it is alone, with all threads, which round in other orders."""
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    exact = ("parallel.tolerance=0", "parallel.window=2", "parallel.evaluator=null")
    options = small(folder, "tag=together", "trainer.max_steps=2", "data.n_test_views=1")
    done = launch(folder, *options, "--compare", *exact, ranks=2)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "outputs/dreamfusion-sd/together/report.json").read_text())
    assert report["psnr_db"] > report["seed_noise_psnr_db"] + 20
    assert [report[key]["world_size"] for key in KEYS] == [1, 2, 1]
    assert [report[key]["threads"] for key in KEYS] == [2, 1, 2]
