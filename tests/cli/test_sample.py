"""Pictures from the command line: a run writes what it should, and the sequential sampler is the pipeline's own."""

import csv
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from dreamprop.cli import main
from dreamprop.runs.progress import Progress
from dreamprop.runs.sampling.methods import METHODS, Method
from dreamprop.sampling import paradigms
from tests.cli.runs import Refused, contents, summary
from tests.cli.samples import CONFIG, IMAGES, PROMPT, STEPS, Sample
from tests.sampling.pipes import xl_pipeline

FOLDER = Path("outputs/sample/a_red_torus")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def pictures(folder: Path) -> list[np.ndarray]:
    return [pixels(folder / f"image-{i:03d}.png") for i in range(IMAGES)]


def images(folder: Path) -> dict[str, bytes]:
    """The files of the pictures alone."""
    return {name: content for name, content in contents(folder).items() if name.startswith("image")}


def test_a_run_writes_all_it_should(sample: Sample, capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert sample("--sample", "parallel.window=4") == 0
    assert sorted({p.name for p in FOLDER.iterdir()} - {"tensorboard"}) == [
        "config.yaml", "image-000.png", "image-001.png", "image-002.png", "images.png", "metrics.csv", "rounds.png",
        "summary.json",
    ]  # fmt: skip
    told = summary(FOLDER)
    assert {
        "prompt", "method", "scheduler", "steps", "rounds", "drifts", "speedup_rounds", "wall_seconds", "window",
        "tolerance", "evaluator", "world_size", "device", "dtype", "seed", "versions", "judge",
    } <= told.keys()  # fmt: skip
    assert told["prompt"] == PROMPT and told["method"] == "paradigms" and told["scheduler"] == "DDIMScheduler"
    assert told["steps"] == STEPS and told["images"] == IMAGES and told["judge"] is None
    assert told["window"] == 4 and told["tolerance"] == 0.1 and told["evaluator"] == "batched"
    with (FOLDER / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == told["rounds"] and told["speedup_rounds"] == STEPS / told["rounds"]
    assert sum(int(row["stride"]) for row in rows) == STEPS == int(rows[-1]["step"])
    assert sum(int(row["drifts"]) for row in rows) == told["drifts"]
    assert all(float(row["error"]) <= 0.1 for row in rows)
    together = pixels(FOLDER / "images.png")
    assert together.shape == (32, 32, 3)  # two by two, of 16 pixels
    for i, picture in enumerate(pictures(FOLDER)):
        y, x = 16 * (i // 2), 16 * (i % 2)
        assert np.array_equal(together[y : y + 16, x : x + 16], picture)
    assert pixels(FOLDER / "rounds.png").ndim == 3
    assert str(FOLDER / "images.png") in capsys.readouterr().out
    assert main(["--config", str(FOLDER / "config.yaml"), "--sample", "tag=again"]) == 0
    assert images(FOLDER.with_name("again")) == images(FOLDER)
    assert sorted(p.name for p in place.iterdir()) == ["outputs", "toy.yaml"]


@pytest.mark.parametrize("scheduler", ["ddim", "heun"])
def test_a_window_of_one_draws_the_pipeline_s_own_pictures(
    sample: Sample, model: Path, scheduler: str
) -> None:
    assert sample("--sample", "parallel.window=1", f"system.sampler.scheduler={scheduler}", "seed=3") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    kind = {"ddim": diffusers.DDIMScheduler, "heun": diffusers.HeunDiscreteScheduler}[scheduler]
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        PROMPT, num_inference_steps=STEPS, guidance_scale=3.0, num_images_per_prompt=IMAGES,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    for ours, theirs in zip(pictures(FOLDER), drawn.images, strict=True):
        assert np.array_equal(ours, np.asarray(theirs))
    told = summary(FOLDER)
    assert (
        told["steps"] == told["rounds"] == told["drifts"] == (STEPS if scheduler == "ddim" else 2 * STEPS - 1)
    )
    assert told["evaluator"] == "serial" and told["num_inference_steps"] == STEPS


def test_the_windows_of_a_run_are_followed_by_another(sample: Sample) -> None:
    assert sample("--sample", "system.sampler.num_inference_steps=20") == 0
    chosen = [json.loads(line) for line in (FOLDER / "windows.jsonl").read_text().splitlines()]
    assert chosen == summary(FOLDER)["windows"] and summary(FOLDER)["window"] == "auto"
    followed = f"parallel.window={FOLDER}"
    assert sample("--sample", "system.sampler.num_inference_steps=20", followed, "tag=followed") == 0
    assert images(FOLDER.with_name("followed")) == images(FOLDER)
    assert summary(FOLDER.with_name("followed"))["rounds"] == summary(FOLDER)["rounds"]


def test_compare_writes_a_report(sample: Sample) -> None:
    assert sample("--compare", "parallel.window=4") == 0
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["baseline"]["rounds"] == STEPS == report["baseline"]["drifts"]
    assert report["accelerated"]["window"] == 4 and report["other_noise"]["seed"] == 1
    assert report["speedup_rounds"] == STEPS / report["accelerated"]["rounds"] > 1
    assert report["psnr_db"] > report["seed_noise_psnr_db"] and report["ssim"] > report["seed_noise_ssim"]
    folders = {"baseline": FOLDER / "baseline", "accelerated": FOLDER, "other_noise": FOLDER / "other_noise"}
    for key, folder in folders.items():
        assert summary(folder) == report[key]
        assert len(pictures(folder)) == IMAGES
    baseline, other = (np.stack(pictures(folders[key])) / 255 for key in ("baseline", "other_noise"))
    psnr = -10 * np.log10(np.square(baseline - other).mean())
    assert report["seed_noise_psnr_db"] == pytest.approx(
        psnr, abs=0.1
    )  # which is of pictures before rounding
    page = (FOLDER / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "<svg" in page and 'src="http' not in page
    assert PROMPT in page and "noise of a step" in page and "audit" not in page


@pytest.mark.parametrize(
    ("sampler", "steps", "rounds"),
    [
        ("{method: srds, num_inference_steps: 9, blocks: 3, max_sweeps: 1}", 9, 5),
        ("{method: piadm, num_inference_steps: 50, blocks: 2, points: 4, sweeps: 3}", 8, 6),
        (
            "{method: piadm, num_inference_steps: 50, blocks: 2, points: 4, sweeps: 3, form: sde, hold: score}",
            8,
            6,
        ),
        ("{method: randomized-midpoint, num_inference_steps: 3, midpoints: 2, sweeps: 1}", None, 9),
    ],
)
def test_every_method_is_held_against_its_sequential_form(
    sample: Sample, sampler: str, steps: int | None, rounds: int
) -> None:
    small = "num_images_per_prompt: 2, "
    assert sample("--compare", f"system.sampler={sampler.replace('{', '{' + small)}") == 0
    told = json.loads((FOLDER / "report.json").read_text())
    plain, fast = told["baseline"], told["accelerated"]
    assert fast["rounds"] == rounds and (steps is None or plain["rounds"] == steps == fast["steps"])
    assert plain["rounds"] == plain["drifts"] and fast["images"] == plain["images"] == 2
    assert 15 < told["psnr_db"] <= 100 and told["accelerated"]["tolerance"] == (
        0.1 if "srds" in sampler else None
    )


def test_compare_of_equal_runs_is_a_number(sample: Sample) -> None:
    assert sample("--compare", "parallel.tolerance=0", "parallel.window=3") == 0
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["identical"] is True and report["psnr_db"] == 100.0
    assert images(FOLDER / "baseline") == {
        name: content for name, content in images(FOLDER).items() if "/" not in name
    }


def plain(
    pipe: Any, prompt: str, *, num_inference_steps: int, num_images_per_prompt: int, guidance_scale: float,
    generator: torch.Generator, output_type: str, evaluator: Any, callback: Any,
) -> Any:  # fmt: skip
    """A method without windows and tolerance, which is called with what it takes."""
    return paradigms(
        pipe, prompt, num_inference_steps=num_inference_steps, num_images_per_prompt=num_images_per_prompt,
        guidance_scale=guidance_scale, generator=generator, output_type=output_type, window=1,
        evaluator=evaluator, callback=callback,
    )  # fmt: skip


def test_a_method_takes_what_its_function_takes(
    sample: Sample, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "plain", Method(plain, "nothing", contiguous=False))
    chosen = "system.sampler.method=plain"
    for key, value in (("parallel.window", 4), ("parallel.tolerance", 0.5), ("system.sampler.eta", 0.5)):
        line = refused(sample("--sample", chosen, f"{key}={value}"))
        assert f"{key} must be left out with method plain, got {value}; drop it" in line
        assert "use system.sampler.method=paradigms" in line
    assert sample("--sample", chosen) == 0
    told = summary(FOLDER)
    assert told["method"] == "plain" and told["window"] is None and told["tolerance"] is None
    assert not (FOLDER / "rounds.png").exists()
    assert sample("--compare", chosen, "tag=compared") == 0
    compared = FOLDER.with_name("compared")
    assert json.loads((compared / "report.json").read_text())["identical"] is True
    assert "method plain" in (compared / "report.html").read_text()


def test_two_processes_draw_the_same_pictures(sample: Sample, arguments: list[str]) -> None:
    fixed = ["parallel.window=3", "parallel.sub_batch=1", "system.sampler.eta=1"]
    assert sample("--sample", *fixed) == 0
    both = [sys.executable, str(Path(__file__).with_name("sample_ranks.py")), *arguments, *fixed]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*both, "--sample", "tag=both"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("writing to") == 1
    assert images(FOLDER.with_name("both")) == images(FOLDER)
    told = summary(FOLDER.with_name("both"))
    assert told["world_size"] == 2 and told["evaluator"] == "distributed"
    assert told["rounds"] == summary(FOLDER)["rounds"]


def test_a_run_that_is_ended_leaves_no_picture(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Progress, "on_round", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert sample("--sample") == 1
    told = capsys.readouterr().err
    assert "interrupted by SIGINT" in told and "start it again" in told and "Traceback" not in told
    assert {p.name for p in FOLDER.iterdir()} - {"tensorboard"} == {"config.yaml", "metrics.csv"}


def test_the_judge_is_asked_what_the_shipped_model_drew() -> None:
    few = ["system.sampler.num_inference_steps=6", "system.sampler.num_images_per_prompt=2", "device=cpu"]
    assert main([*CONFIG, "--sample", "system.prompt_processor.prompt=a red mug", *few]) == 0
    judge = summary(Path("outputs/sample/a_red_mug"))["judge"]
    assert judge["views"] == 2 == len(judge["labels"]) and judge["correct"] <= 2


def test_a_model_of_stable_diffusion_xl(sample: Sample, tmp_path: Path) -> None:
    xl_pipeline(tmp_path / "small").save_pretrained(tmp_path / "xl")
    model = f"system.guidance.pretrained_model_name_or_path={tmp_path / 'xl'}"
    assert sample("--sample", model, "parallel.window=3", "device=cpu") == 0
    assert summary(FOLDER)["rounds"] <= STEPS and len(pictures(FOLDER)) == IMAGES
