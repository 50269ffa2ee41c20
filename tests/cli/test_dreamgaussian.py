"""Whole runs of Gaussians on the smaller model that ships with the project: files, a kill, and what is gone on from."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from dreamprop import checkpoint
from dreamprop.cli import main
from tests.cli.runs import Refused, killed, same
from tests.cli.shipped import REPOSITORY

CONFIG = ["--config", str(REPOSITORY / "configs" / "dreamgaussian.yaml")]
SMALL = [
    "output.turntable_frames=3", "output.turntable_size=24", "output.view_size=32", "output.preview_every_n_steps=0",
    "export.resolution=20", "data.width=16", "data.height=16", "data.batch_size=1", "data.resolution_milestones=[]",
    "system.guidance.pretrained_model_name_or_path=embedded", "system.background_type=random-color-background",
    "system.geometry.gaussians.num_points=60", "system.geometry.gaussians.densify_from=4",
    "system.geometry.gaussians.densification_interval=4", "system.geometry.gaussians.densify_until=8",
    "trainer.max_steps=10", "parallel.window=3", "parallel.sub_batch=1",
]  # fmt: skip
PROMPT = "system.prompt_processor.prompt=a red torus"
FOLDER = Path("outputs/dreamgaussian")


def run(*arguments: str) -> int:
    return main([*CONFIG, *SMALL, PROMPT, *arguments])


def test_a_killed_run_goes_on_across_more_gaussians_to_the_same_bits() -> None:
    """It is killed behind the boundary at 4, and goes on from where it was and from a state in front of it."""
    assert run("--train", "tag=whole") == 0
    often = ("checkpoint.every_n_train_steps=1", "checkpoint.keep=99")
    assert killed(8, lambda: run("--train", "tag=killed", *often)) == -signal.SIGKILL
    folder = FOLDER / "killed"
    counts = {}
    for path in sorted((folder / "checkpoints").glob("*.safetensors")):
        state, _ = checkpoint.load(path)
        counts[path] = (state.step, len(state.params["geometry.xyz"]))
    first, last = min(counts.values()), max(counts.values())
    assert first[0] < 4 < last[0] < 9 and first[1] == 60 < last[1]
    early = next(path for path, found in counts.items() if found == first)
    for where in (folder, early):
        assert main(["--config", str(folder / "config.yaml"), "--train", "--resume", str(where)]) == 0
        assert same(FOLDER / "whole", folder)
    told = json.loads((folder / "summary.json").read_text())
    assert told["method"] == "dreamgaussian" and told["mesh"][0] == "splats.ply"


def test_splats_are_written_at_the_end_and_on_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--train", "tag=a", "system.geometry.gaussians.sh_degree=1", "trainer.max_steps=5") == 0
    path = FOLDER / "a" / "splats.ply"
    written = path.read_bytes()
    path.unlink()
    (FOLDER / "a" / "mesh.obj").unlink(missing_ok=True)
    config = ["--config", str(FOLDER / "a" / "config.yaml"), "--export", "--resume", str(FOLDER / "a")]
    assert main([*config, "export.threshold=0.5"]) == 0
    assert str(path) in capsys.readouterr().out and path.read_bytes() == written
    assert (FOLDER / "a" / "mesh.obj").stat().st_size > 100
    vertex = PlyData.read(path)["vertex"]
    state, _ = checkpoint.load(checkpoint.latest(FOLDER / "a" / "checkpoints"))
    assert torch.equal(
        torch.from_numpy(np.stack([vertex[n] for n in "xyz"], 1)), state.params["geometry.xyz"]
    )
    assert len([name for name in vertex.data.dtype.names if name.startswith("f_rest_")]) == 9


@pytest.mark.parametrize(
    "bad",
    [
        "system.geometry.gaussians.num_points=0", "system.geometry.gaussians.min_opacity=1.5",
        "system.geometry.gaussians.sh_degree=4", "system.loss.lambda_tv=1.0",
    ],
)  # fmt: skip
def test_a_setting_of_gaussians(refused: Refused, bad: str) -> None:
    assert bad.partition("=")[0] in refused(run("--train", bad))
