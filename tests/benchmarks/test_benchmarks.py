"""Every benchmark runs, as its users run it, with the least that it takes: a signature that changed shows here."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FEW_STEPS = "trainer.max_steps=3"


class Bench:
    """Runs a benchmark in this process."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._monkeypatch, self._capfd = folder, monkeypatch, capfd

    def __call__(self, name: str, *arguments: str, status: int = 0) -> list[str]:
        """The lines that it prints, blank ones left out."""
        path = str(self.folder / f"{name}.py")
        self._monkeypatch.setattr(sys, "argv", [path, *arguments])
        self._capfd.readouterr()
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as left:
            assert (left.code or 0) == status
        else:
            assert status == 0
        return [line for line in self._capfd.readouterr().out.splitlines() if line.strip()]


@pytest.fixture
def bench(benchmarks: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    return Bench(benchmarks, monkeypatch, capfd)


def program(folder: Path, name: str, *arguments: str, timeout: float) -> list[str]:
    """The lines that a benchmark prints as a program of its own, which may start others; `timeout` is in seconds."""
    done = subprocess.run(
        [sys.executable, str(folder / f"{name}.py"), *arguments],
        env=os.environ | {"PYTHONPATH": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def cells(line: str) -> list[str]:
    """A row of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_engine(bench: Bench) -> None:
    few = ["--params", "4000", "--tensors", "2", "--window", "4", "--rounds", "2", "--warm-up", "1"]
    (line,) = bench("engine", *few, "--device", "cpu")
    found = json.loads(line)
    assert found["ratio"] > 0
    # base with moments, and a guess for each further slot; at the peak a gradient each beside them
    assert found["tensors_when_evaluation_begins"] == 3 + 3
    assert found["tensors_at_peak"] >= 3 + 3 + 4


def test_gallery(bench: Bench, tmp_path: Path) -> None:
    few = ["--count", "1", "--pairs", "1", "--size", "16", "--out", str(tmp_path)]
    bench("gallery", *few, "--", FEW_STEPS)
    page = (tmp_path / "gallery.md").read_text()
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == 2 and all(f"]({name})" in page for name in pictures)
    assert "\n**a red cube on top of a blue cylinder**\n\n![" in page


def test_drift(bench: Bench) -> None:
    lines = bench("drift", *["--window", "2", "--step", "2", "--repeat", "1"])
    assert all(float(cell) > 0 for cell in cells(lines[-1]))


def test_wrap(bench: Bench) -> None:
    few = ["--window", "2", "--begin", "1", "--repeat", "1", "--steps", "2", "--model", "embedded"]
    rows = [cells(line) for line in bench("wrap", *few)]
    ways = ["one by one", "frozen", "vectorize"]
    assert [row[0] for row in rows] == ["a window", "---", *ways, "a run", "---", "sequential", *ways]
    # float32's 6e-8 through a network, times a guidance scale of 25
    assert all(float(row[3]) < 1e-3 for row in rows[2:5])


def test_frontier(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "frontier.jsonl"
    arguments = ["--windows", "2", "--prompts", "a red torus", "--predictors", "hold", "--rules", "step:1"]
    arguments += ["--out", str(out), "--", FEW_STEPS]
    lines = bench("frontier", *arguments)
    assert cells(lines[-1])[:2] == ["hold", "step 1"]
    assert [json.loads(row)["kind"] for row in out.read_text().splitlines()] == [
        "yardstick",
        "ceiling",
        "run",
    ]


def test_methods(bench: Bench, tmp_path: Path) -> None:
    """Each case from its own config, by a step or two."""
    out, small = tmp_path / "methods.jsonl", ["data.batch_size=1", "data.width=16", "data.height=16"]
    lines = bench(
        "methods", "--prompts", "a red torus", "--out", str(out), "--", *small, "trainer.max_steps=2"
    )
    assert [cells(line)[0] for line in lines[-7:-1]] == ["sds", "sjc", "ism", "sdi", "vsd", "gaussians"]
    assert Path(lines[-1]) == tmp_path / "methods" / "methods.png" and Path(lines[-1]).is_file()


def test_sampling(bench: Bench, tmp_path: Path) -> None:
    """One prompt by the ways of a schedule, and by a guess; `threads` stay what they are."""
    few = ["--threads", str(torch.get_num_threads()), "--schedules", "dpm-solver++-25", "--count", "1"]
    for more, label in (([], "paradigms, window 8"), (["--predictors", "restart"], "restart")):
        lines = bench("sampling", *few, "--out", str(tmp_path / "sampling.jsonl"), *more)
        plain, fast = cells(lines[-2]), cells(lines[-1])
        assert plain[:4] == ["sequential", "25.0 (25)", "1.0", "25"] and fast[0] == label
        assert float(fast[2]) > 1.2 and float(fast[5].split()[0]) > 35


def test_sampling_on_a_grid(bench: Bench, tmp_path: Path) -> None:
    """Held against its steps one after another; it has no guess to choose."""
    few = ["--threads", str(torch.get_num_threads()), "--schedules", "sde-48", "--count", "1"]
    few += ["--out", str(tmp_path / "sampling.jsonl")]
    lines = bench("sampling", *few)
    plain, fast = cells(lines[-2]), cells(lines[-1])
    assert plain[:4] == ["sequential", "48.0 (48)", "1.0", "48"]
    assert fast[:4] == ["piadm, 8 blocks of 6, 4 sweeps", "32.0 (32)", "1.5", "144"]
    bench("sampling", *few, "--predictors", "restart", status=2)


def test_gaussian_mixtures(bench: Bench, tmp_path: Path) -> None:
    """And resumed it measures nothing again."""
    out, few = tmp_path / "mixtures.jsonl", ["--most", "2", "--noisy", "2", "--finest", "1"]
    few += ["--dimensions", "2", "--steps", "16", "--reference", "32", "--out", str(out)]
    lines = bench("gaussian_mixtures", *few)
    assert cells(lines[-1])[0] == "ParaDiGMS"
    found = out.read_text()
    assert bench("gaussian_mixtures", *few) == lines and out.read_text() == found


def test_auto(bench: Bench) -> None:
    few = ["--windows", "1", "2", "--steps", "12", "--repeat", "1"]
    lines = bench("auto", "--processes", "pixel", "toy", "idle", *few)
    rows = {cells(line)[0]: cells(line) for line in lines if line.startswith("|")}
    assert all(float(rows[name][-3].strip("*")) > 0 for name in ("pixel", "toy", "idle"))
    bench("auto", "--processes", "dreamfusion-sd", status=2)


def test_auto_on_two_processes(benchmarks: Path) -> None:
    few = ["--processes", "idle", "--windows", "2", "--steps", "12", "--repeat", "1"]
    lines = program(benchmarks, "auto", "--ranks", "2", *few, timeout=120)
    assert cells(lines[-1])[0] == "idle"


def test_rprecision(bench: Bench, tmp_path: Path) -> None:
    lines = bench("rprecision", "--count", "1", "--idle", "--out", str(tmp_path / "r.jsonl"), "--", FEW_STEPS)
    names = ["sequential", "accelerated", "accelerated, idle device"]
    assert [cells(line)[0] for line in lines[-3:]] == names


def test_model(bench: Bench) -> None:
    lines = bench("model", "--step", "0.5", "--numbers", "50", "--gain", "1.5")
    assert cells(lines[-1])[0] == "64"


def test_exchange_between_two_processes(benchmarks: Path) -> None:
    few = ["--parameters", "0.001", "--window", "2", "--rounds", "1"]
    lines = program(benchmarks, "exchange", "--ranks", "2", *few, timeout=300)
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row["layout"] for row in found] == ["replicated", "sharded"]
    assert all(row["bytes_sent_by_a_rank"] > 0 for row in found)


def test_ranks(bench: Bench) -> None:
    # a job of one process, which is every part of the script but the launch that exchange has too
    lines = bench("ranks", "--ranks", "1", "--repeat", "1", "--", FEW_STEPS)
    assert "3 steps in" in lines[-1]


def gpu(bench: Bench, out: Path, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    """Rows that the GPU's benchmark wrote."""
    few = ["--tiny", "--rounds", "2", "--warm-up", "1", "--begin", "1"]
    bench("gpu", *few, "--out", str(out), *arguments, status=status)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return rows


def test_gpu_on_a_cpu(bench: Bench, tmp_path: Path) -> None:
    rows = gpu(bench, tmp_path / "gpu.json", "--variants", "channels-last", "--windows", "2")
    assert [(row["model"], row["window"]) for row in rows] == [
        (model, window) for model in ("sd15", "sdxl", "embedded") for window in (None, 2)
    ]
    for row in rows:
        assert "error" not in row
        assert row["seconds_quickest"] <= row["seconds_a_round"] <= row["seconds_slowest"]
        assert 0.9 < sum(row[f"share_{part}"] for part in ("render", "guidance", "engine")) < 1.1
        assert row["states_in_a_batch"] == (row["window"] or 1)
    ratio = rows[0]["seconds_a_round"] / rows[1]["seconds_a_round"]
    assert rows[1]["ratio_all_accepted"] == pytest.approx(2 * ratio)
    assert rows[1]["ratio_measured"] == pytest.approx(rows[1]["stride"] * ratio)


def test_gpu_with_a_compiled_model(bench: Bench, tmp_path: Path) -> None:
    # traced, and run without a compiler; the shapes of a sequential step and of a window of one are the same
    variant = ["--models", "sd15", "--variants", "channels-last+cuda-graphs", "--backend", "eager"]
    rows = gpu(bench, tmp_path / "gpu.json", *variant, "--windows", "1")
    assert len(rows) == 2 and not any("error" in row for row in rows)


def test_gpu_reports_what_fails_and_goes_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rounds
    import torch

    few = ["--models", "embedded", "--variants", "eager", "--windows", "1", "2"]
    real = rounds.measure

    def measure(process: Any, first: Any, window: int | None, *rest: Any, **options: Any) -> dict[str, Any]:
        if window == 1:
            raise failure
        return real(process, first, window, *rest, **options)

    monkeypatch.setattr(rounds, "measure", measure)
    failure: Exception = torch.OutOfMemoryError("CUDA out of memory")
    rows = gpu(bench, tmp_path / "memory.json", *few)
    assert [row.get("error") for row in rows] == [None, "out of memory", None]
    failure = RuntimeError("no kernel image")
    rows = gpu(bench, tmp_path / "other.json", *few, status=1)
    assert [row.get("error") for row in rows] == [None, "RuntimeError: no kernel image", None]


def test_gpu_refuses_a_machine_without_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench("gpu", status=2)


def test_gpu_has_the_published_sizes() -> None:
    import random_sd
    import torch

    with torch.device("meta"):
        parts = [random_sd.make_unet(random_sd.SD15), random_sd.make_unet(random_sd.SDXL)]
        parts.append(random_sd.make_vae(random_sd.SD15))
    # of the weights that are published for them
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [859520964, 2567463684, 83653863]


@pytest.mark.skipif(
    "THREESTUDIO_ROOT" not in os.environ, reason="THREESTUDIO_ROOT is not set to a checkout of threestudio"
)
def test_meeting(benchmarks: Path) -> None:
    root = f"--threestudio={os.environ['THREESTUDIO_ROOT']}"
    few = ["--tiny", "--window", "2", "--threads", "1", "--repeat", "1"]
    lines = program(benchmarks, "meeting", root, *few, timeout=600)
    assert [cells(line)[1] for line in lines if line.startswith("| 1 |")] == [
        "one by one", "U-Net", "every frozen network"
    ]  # fmt: skip
