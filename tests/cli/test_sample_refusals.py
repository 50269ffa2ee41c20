"""What a run that makes pictures refuses, in one line and before anything is written, and what is no refusal."""

import os
from pathlib import Path

import diffusers
import pytest
import torch

from dreamprop.cli import main
from tests.cli.runs import Refused
from tests.cli.samples import CONFIG, Sample


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("system.sampler.method=deis", ["system.sampler.method must be one of", "paradigms", "'deis'"]),
        ("system.sampler.scheduler=plms", ["ddim, ddpm, dpm-solver++, euler, heun", "'plms'"]),
        ("system.sampler.num_inference_steps=0", ["num_inference_steps", ">= 1", "got 0", "use 50"]),
        ("system.sampler.num_inference_steps=1001", ["num_inference_steps", "[1, 1000]", "1001", "use 50"]),
        ("system.sampler.eta=1.5", ["system.sampler.eta", "<= 1", "1.5", "use 0"]),
        ("system.sampler={eta: 0.5, scheduler: ddpm}", ["eta must be 0 with DDPMScheduler", "0.5"]),
        ("system.sampler.num_images_per_prompt=0", ["num_images_per_prompt", ">= 1", "use 4"]),
        ("system.sampler.height=12", ["system.sampler.height", "multiple of 8", "got 12", "use 8"]),
        ("system.sampler.width=0", ["system.sampler.width", ">= 8", "use null"]),
        ("system.sampler.num_stages=3", ["unknown key system.sampler.num_stages", "did you mean"]),
        ("system.guidance.guidance_scale=-1", ["system.guidance.guidance_scale", ">= 0", "use 7.5"]),
        ("system.guidance.pretrained_model_name_or_path=./nowhere", ["nowhere", "model_index.json"]),
        (
            "system.guidance.pretrained_model_name_or_path=embedded-pixel",
            ["StableDiffusionPipeline", "use embedded"],
        ),
        ("system.prompt_processor.prompt=", ["prompt must not be empty"]),
        ("parallel.tolerance=-1", ["parallel.tolerance", ">= 0", "got -1"]),
        ("parallel.tolerance=.nan", ["parallel.tolerance", "finite"]),
        ("parallel.window=0", ["parallel.window", ">= 1", "got 0"]),
        ("parallel.window=eight", ["parallel.window", "'eight'", "use auto"]),
        ("parallel.predictor=guess", ["parallel.predictor must be one of", "momentum", "'guess'"]),
        ("parallel.evaluator=gpu", ["parallel.evaluator", "'gpu'"]),
        ("parallel.error_rule=paper", ["unknown key parallel.error_rule"]),
        ("seed=-1", ["seed", "got -1"]),
        (
            "system.sampler={method: srds, blocks: 9}",
            ["blocks must be an integer in [1, num_steps = 8]", "got 9"],
        ),
        ("system.sampler={method: srds, scheduler: ddpm}", ["must add no noise for srds", "DDPMScheduler"]),
        ("system.sampler={method: srds, eta: 0.5}", ["system.sampler.eta must be left out with method srds"]),
        ("system.sampler={method: piadm, num_inference_steps: 50, blocks: 0}", ["blocks", ">= 1", "got 0"]),
        (
            "system.sampler={method: piadm, num_inference_steps: 50, blocks: 100, points: 100}",
            ["blocks times points must be <= 999"],
        ),
        ("system.sampler={method: piadm, num_inference_steps: 50, form: pde}", ["form must be", "'pde'"]),
        ("system.sampler={method: randomized-midpoint, midpoints: 0}", ["midpoints", "got 0"]),
        (
            "system.sampler.points=3",
            ["system.sampler.points must be left out with method paradigms", "piadm"],
        ),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_is_written(
    sample: Sample, refused: Refused, place: Path, override: str, words: list[str]
) -> None:
    line = refused(sample("--sample", override))
    for word in words:
        assert word in line
    assert sorted(os.listdir(place)) == ["toy.yaml"]


def test_a_prompt_must_be_of_words_that_the_shipped_model_knows(refused: Refused, place: Path) -> None:
    line = refused(main([*CONFIG, "--sample", "system.prompt_processor.prompt=a red mugg"]))
    assert "'mugg' (nearest: mug" in line
    line = refused(main([*CONFIG, "--sample", "system.prompt_processor.prompt= ", "tag=blank"]))
    assert "system.prompt_processor.prompt must have a word" in line
    assert sorted(os.listdir(place)) == ["toy.yaml"]


@pytest.mark.parametrize("verb", ["--sample", "--compare"])
def test_a_scheduler_that_cannot_be_split_is_refused(
    sample: Sample, refused: Refused, place: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    step = diffusers.DDIMScheduler.step

    def drawing(self: object, *args: object, **options: object) -> object:
        torch.randn(1)
        return step(self, *args, **options)

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", drawing)
    line = refused(sample(verb))
    assert "scheduler must step by what it is given, got DDIMScheduler, which draws noise of its own" in line
    assert sorted(os.listdir(place)) == ["toy.yaml"]


def test_a_defect_is_no_mistake_of_the_user(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("shapes differ")

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", broken)
    assert sample("--sample") == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "shapes differ" in told and "error: " not in told


def test_verbs_and_configs_that_do_not_go_together(sample: Sample, refused: Refused, place: Path) -> None:
    assert "--train is for objects, got system_type sampling-system; use --sample" in refused(
        sample("--train")
    )
    assert "--sample must come with system_type sampling-system, got toy-system; use --train" in refused(
        main(["--config", "toy.yaml", "--sample"])
    )
    assert "--sample starts afresh, got --resume" in refused(sample("--sample", "--resume", "x"))
    assert "--baseline belongs to --train" in refused(sample("--sample", "--baseline"))
    assert sorted(os.listdir(place)) == ["toy.yaml"]
