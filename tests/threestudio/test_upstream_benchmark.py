"""The benchmark of threestudio's configs on the embedded weights runs, and keeps what it did."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from . import upstream
from .test_launch import run

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "upstream.py"
SMALL = ["data.width=8", "data.height=8", "data.eval_width=8", "data.eval_height=8"]
SMALL += ["system.renderer.num_samples_per_ray=8", "data.n_test_views=2"]


@upstream.needs_checkout
def test_a_config_is_run_in_each_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--threestudio", upstream.ROOT, "--configs", "prolificdreamer"]
    command += ["--prompts", "a red torus", "--steps", "2", "--out", str(out), "--threads", "1", "--", *SMALL]
    done = run(command, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (out / "upstream.jsonl").read_text().splitlines()]
    assert [row["way"] for row in rows] == ["sequential", "accelerated", "other noise"]
    assert all(row["judge"]["views"] == 2 for row in rows)
    assert done.stdout.splitlines()[-1].startswith("| prolificdreamer | a red torus |")
    assert (out / "upstream.png").stat().st_size > 0
