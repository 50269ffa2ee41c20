"""Whole runs on the model that ships with the project, with few steps."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dreamprop.cli import main
from tests.cli.runs import Refused, same
from tests.cli.shipped import REPOSITORY

CONFIG = ["--config", str(REPOSITORY / "configs" / "dreamfusion.yaml")]
SMALL = [
    "output.turntable_frames=6", "output.turntable_size=32", "output.view_size=32", "export.resolution=24",
    "system.renderer.num_samples_per_ray=16", "system.renderer.eval_num_samples_per_ray=24",
    "data.width=16", "data.height=16", "data.batch_size=1",
]  # fmt: skip
PROMPT = "system.prompt_processor.prompt=a red torus"
FOLDER = Path("outputs/dreamfusion/a_red_torus")


def run(*arguments: str) -> int:
    return main([*CONFIG, *SMALL, PROMPT, *arguments])


def test_launch_makes_a_turntable_and_a_mesh() -> None:
    command = [sys.executable, str(REPOSITORY / "launch.py"), *CONFIG, *SMALL, PROMPT, "--train"]
    done = subprocess.run(
        [*command, "trainer.max_steps=12"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "arning" not in done.stderr
    told = json.loads((FOLDER / "summary.json").read_text())
    assert told["prompt"] == "a red torus" and told["method"] == "dreamfusion" and told["steps"] == 12
    assert told["judge"]["views"] == 8 == len(told["judge"]["labels"])
    assert told["mesh"] == ["mesh.obj", "mesh.glb"]
    for name in ("mesh.obj", "mesh.glb", "turntable.gif", "views.png", "config.yaml"):
        assert str(FOLDER / name) in done.stdout or name == "config.yaml"
        assert (FOLDER / name).stat().st_size > 100
    with Image.open(FOLDER / "turntable.gif") as turn:
        assert turn.size == (32, 32)
    with (FOLDER / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)][-1] == 12


def test_a_word_the_model_does_not_know(refused: Refused, place: Path) -> None:
    line = refused(main([*CONFIG, "--train", "system.prompt_processor.prompt=a red torsu"]))
    assert "'torsu'" in line and "torus" in line
    assert sorted(os.listdir(place)) == ["toy.yaml"]


@pytest.mark.parametrize(
    "bad", ["system.geometry_type=mesh", "system.optimizer.name=Adamm", "data.width=[16,32]"]
)
def test_a_setting_of_the_method(refused: Refused, bad: str) -> None:
    assert bad.partition("=")[0] in refused(run("--train", bad))


def test_a_model_folder_that_is_not_there(refused: Refused) -> None:
    line = refused(run("--train", "system.guidance.pretrained_model_name_or_path=./nowhere"))
    assert "nowhere" in line


def test_exact_settings_and_resumes_equal_the_baseline() -> None:
    steps = "trainer.max_steps=7"
    assert run("--train", "--baseline", "tag=baseline", steps) == 0
    assert run("--train", "parallel.window=1", "tag=one", steps) == 0
    assert run("--train", "parallel.tolerance=0", "parallel.window=3", "tag=zero", steps) == 0
    assert run("--train", "--baseline", "tag=part", "trainer.max_steps=3") == 0
    part = Path("outputs/dreamfusion/part")
    again = ["--config", str(part / "config.yaml"), "--train", "--baseline", "--resume", str(part), steps]
    assert main(again) == 0
    for tag in ("one", "zero", "part"):
        assert same(part.with_name("baseline"), part.with_name(tag)), tag


def test_compare_reports_both_ways() -> None:
    assert run("--compare", "trainer.max_steps=10", "parallel.window=4") == 0
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["baseline"]["rounds"] == 10 > report["accelerated"]["rounds"]
    assert report["psnr_db"] > 20 and 0 < report["ssim"] <= 1
    for key in ("baseline", "accelerated", "other_noise"):
        assert 0 <= report[key]["judge"]["r_precision"] <= 1
    # the two sequential runs share their first state and differ in their noise
    assert report["seed_noise_psnr_db"] < 100
