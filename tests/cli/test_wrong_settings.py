"""A setting that is wrong is told in one line, with its key and a remedy."""

import os
from pathlib import Path

import pytest

from dreamprop.config.loader import InputError
from dreamprop.runs import experiment as experiments
from tests.cli.runs import Cli, Refused
from tests.cli.shipped import METHOD, OPTIMIZER


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("parallel.window=0", ["parallel.window", ">= 1", "got 0", "use auto, or 1"]),
        ("parallel.windw=8", ["unknown key parallel.windw", "parallel.window"]),
        ("guidance_scale=7", ["unknown key guidance_scale", "system.guidance.guidance_scale"]),
        ("parallel.window=eight", ["parallel.window", "'eight'", "a number, auto, or the folder"]),
        ("parallel.window=1.5", ["parallel.window", "1.5", "takes int"]),
        ("parallel=8", ["parallel must be a block", "window"]),
        ("nothing_like_it=8", ["unknown key nothing_like_it", "did you mean", "docs/reference.md"]),
        ("data=[]", ["data must be a block", "batch_size"]),
        ("trainer=[1]", ["trainer must be a block", "max_steps"]),
        ("data=${system}", ["config", "docs/reference.md"]),
        ("trainer=${trainer}", ["leads to itself"]),
        ("trainer.max_steps=${data}", ["trainer.max_steps", "takes int"]),
        ("system_type=${data}", ["system_type must be a word", "'${data}'", "use dreamfusion-system"]),
        ("system_type=[1]", ["system_type must be a word"]),
        ("name=${oc.env:}", ["name", "env()", "takes str"]),
        ("name=${tag}${tag}", ["name"]),
        ("parallel.buffer_units=[1]", ["parallel.buffer_units", "[1]"]),
        ("parallel.buffer_units={a: true}", ["parallel.buffer_units.a", "'bool'"]),
        ("parallel.buffer_units={a: 0}", ["parallel.buffer_units of a", "> 0", ".inf"]),
        (f"trainer.max_steps={'[' * 900}", ["trainer.max_steps="]),
        (f"trainer.max_steps={'[' * 900}{']' * 900}", ["nested too deeply"]),
        (f"trainer.max_steps={'9' * 23}", ["trainer.max_steps", "<= 1e+09", "use 120"]),
        (f"trainer.max_steps={'9' * 5000}", ["trainer.max_steps"]),
        (f"seed={'9' * 23}", ["seed", "< 9.2"]),
        ("trainer.max_steps=true", ["trainer.max_steps", "takes int"]),
        ("parallel.tolerance=true", ["parallel.tolerance", "takes float"]),
        ("parallel.threshold=inf", ["parallel.threshold", "finite number <= 1e+12", "got inf"]),
        ("parallel.tolerance=1e308", ["parallel.tolerance", "<= 1e+12"]),
        ("export.threshold=inf", ["export.threshold", "finite"]),
        ("output.elevation=.nan", ["output.elevation", "finite", ">= -90 and <= 90 degrees"]),
        ("output.view_size=100000", ["output.view_size", "<= 8192"]),
        (f"exp_root_dir={'x' * 300}", ["exp_root_dir=FOLDER"]),
        (f"name={'x' * 300}", ["name", "at most 240 bytes"]),
        ("parallel.error_rule=stepp", ["parallel.error_rule", "step, paper", "'stepp'"]),
        ("parallel.error_rule=exact", ["parallel.error_rule", "step, paper", "'exact'"]),
        ("parallel.evaluator=gpu", ["parallel.evaluator", "batched, serial, distributed", "'gpu'"]),
        ("parallel.layout=split", ["parallel.layout", "replicated, sharded", "'split'"]),
        ("parallel.purity=lax", ["parallel.purity", "strict, warn", "'lax'"]),
        ("parallel.purity_tolerance=1.5", ["parallel.purity_tolerance", "<= 1,", "1.5", "use 0.01"]),
        ("parallel.on_nonfinite=ignore", ["parallel.on_nonfinite", "stop, skip", "'ignore'"]),
        ("parallel.timeout=0", ["parallel.timeout", "> 0 seconds"]),
        ("checkpoint.train_time_interval=-1", ["checkpoint.train_time_interval", ">= 0 seconds"]),
        ("parallel.predictor=guess", ["parallel.predictor", "momentum, hold, restart"]),
        ("parallel.aggregate=max", ["parallel.aggregate", "median, mean, middle"]),
        ("parallel.tolerance=-1", ["parallel.tolerance", ">= 0"]),
        ("parallel.tolerance=.nan", ["parallel.tolerance", "finite"]),
        ("parallel.decay=1.5", ["parallel.decay", "<= 1,"]),
        ("parallel.decay=-1", ["parallel.decay", ">= 0,"]),
        ("parallel={error_rule: paper, tolerance: 0}", ["parallel.tolerance", "> 0,", "error_rule=step"]),
        ("parallel.threshold=-1", ["parallel.threshold", ">= 0,"]),
        ("parallel.sub_batch=0", ["parallel.sub_batch", ">= 1"]),
        ("trainer.max_steps=0", ["trainer.max_steps", ">= 1"]),
        ("checkpoint.keep=0", ["checkpoint.keep", ">= 1"]),
        ("output.views=0", ["output.views", ">= 1"]),
        ("export.threshold=0", ["export.threshold", "> 0"]),
        ("seed=-1", ["seed", "got -1"]),
        ("device=tpu", ["device", "'tpu'", "use auto"]),
        (f"device=cuda:{'9' * 23}", ["device", "use auto"]),
        ("device=", ["device", "use auto"]),
        ("system_type=dreamfusion", ["system_type", "dreamfusion-system", "did you mean"]),
        ("parallel.window", ["parallel.window", "key.key=value"]),
        ("parallel.window=[1,", ["not YAML"]),
        ("name=${nothing}", ["nothing"]),
        ("name=../elsewhere", ["name", "'../elsewhere'"]),
        ("name=..", ["name", "'..'"]),
        ("tag=a/b", ["tag", "'a/b'"]),
        ("tag=..", ["tag", "'..'"]),
        ("system.prompt_processor.prompt=../../a red torus", ["prompt", "'../../a red torus'", "separator"]),
        ("system.prompt_processor.prompt=''", ["prompt", "must not be empty"]),
    ],
)
def test_a_wrong_value_is_one_line(
    cli: Cli, refused: Refused, place: Path, override: str, words: list[str]
) -> None:
    line = refused(cli("--train", override))
    for word in words:
        assert word in line
    assert len(line) <= 3 * 100 or "exp_root_dir" in override, line
    assert sorted(os.listdir(place)) == ["toy.yaml"]
    assert sorted(os.listdir(place.parent)) == [place.name]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.camera_perturb=inf", ["data.camera_perturb", "finite"]),
        ("data.up_perturb=-1", ["data.up_perturb", ">= 0"]),
        ("data.batch_size=true", ["data.batch_size", "whole number", "True"]),
        ("data.batch_size=[2,a]", ["data.batch_size[1]", "'a'"]),
        ("data.width=1e308", ["data.width", "1e+308"]),
        ("data.elevation_range=3", ["data.elevation_range", "got 3", "list[float]"]),
        ("data.elevation_range=[.nan,3]", ["data.elevation_range", "nan"]),
        (f"data.resolution_milestones=[{'9' * 23}]", ["data.resolution_milestones"]),
        ("system.geometry.radius=inf", ["system.geometry.radius", "finite number <= 1e+06"]),
        ("system.geometry.density_blob_scale=1e308", ["density_blob_scale"]),
        ("system.geometry.resolution=100000", ["system.geometry.resolution", "<= 1024"]),
        ("system.geometry.mlp_network_config.n_neurons=0", ["n_neurons", ">= 1"]),
        ("system.material.ambient_only_steps=-1", ["ambient_only_steps", ">= 0"]),
        ("system.material.ambient_light_color=[1,1]", ["ambient_light_color", "3 numbers"]),
        ("system.background.color=[0,0,.nan]", ["system.background.color", "3 numbers from 0 to 1"]),
        ("system.guidance.guidance_scale=.nan", ["guidance_scale", "finite"]),
        ("system.guidance.guidance_scale=[1,2]", ["guidance_scale", "[start_step, start_value,"]),
        ("system.guidance.guidance_scale=[5,1,2,5]", ["guidance_scale", "start_step < end_step"]),
        ("system.guidance.max_step_percent=0", ["min_step_percent must be <=", "0.02 > 0 at step 0"]),
        ("system.guidance.max_step_percent=[0,0.9,0.01,500]", ["0.02 > 0.01 at step 500"]),
        ("system.loss.lambda_tv=-1", ["system.loss.lambda_tv", ">= 0"]),
        ("system.loss.lambda_tv={a: 3}", ["system.loss.lambda_tv", "[start_step"]),
        ("system.loss.lambda_sds=abc", ["system.loss.lambda_sds", "'abc'"]),
        (f"{OPTIMIZER}.lr=.nan", [f"{OPTIMIZER}.lr", "finite"]),
        (f"{OPTIMIZER}.lr=-1", [f"{OPTIMIZER}.lr", ">= 0"]),
        (f"{OPTIMIZER}.lr=true", [f"{OPTIMIZER}.lr", "True"]),
        (f"{OPTIMIZER}.lr=[0,1]", [f"{OPTIMIZER}.lr", "[start_step"]),
        (f"{OPTIMIZER}.eps=-1", [f"{OPTIMIZER}.eps", ">= 0"]),
        (f"{OPTIMIZER}.weight_decay=-1", [f"{OPTIMIZER}.weight_decay", ">= 0"]),
        (f"{OPTIMIZER}.amsgrad=abc", [f"{OPTIMIZER}.amsgrad", "true or false"]),
        (f"{OPTIMIZER}.betas=0.9", [f"{OPTIMIZER}.betas", "2 numbers", "[0.9, 0.99]"]),
        (f"{OPTIMIZER}.betas=[0.9]", [f"{OPTIMIZER}.betas", "2 numbers"]),
        (f"{OPTIMIZER}.betas=[0.9,1]", [f"{OPTIMIZER}.betas", "below 1"]),
        (f"{OPTIMIZER}.momentum=0.9", [OPTIMIZER, "'momentum'", "lr, betas, eps"]),
        (f"{OPTIMIZER}=[1]", [OPTIMIZER, "[1]"]),
        ("system.optimizer.params={geometry.density: 3}", ["params.geometry.density", "block", "got 3"]),
        ("system.optimizer.params={geometry: 3}", ["groups of geometry.density", "'geometry'"]),
        ("system.optimizer.params.geometry.densty.lr=1", ["'geometry.densty'"]),
        ("system.optimizer.params.geometry.density.lr=-1", ["params.geometry.density.lr", ">= 0"]),
        ("system.optimizer.params.geometry.density.amsgrad=true", ["'amsgrad'", "drop it"]),
        ("system.prompt_processor.prompt=a rde tours", ["'rde' (nearest: red", "'tours' (nearest: torus"]),
        ("system.prompt_processor.prompt=a grey cube", ["'grey' (nearest: white, black)"]),
        ("system.prompt_processor.prompt=a photo of three tiny cats and dogs", ["'three'", "'tiny'", "dogs"]),
        ("system.guidance.pretrained_model_name_or_path=" + "x" * 300, ["model_index.json"]),
    ],
)
def test_a_wrong_setting_of_the_method_is_one_line(override: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        experiments.make_process(experiments.load(METHOD, [override]))
    line = f"error: {caught.value}"
    for word in words:
        assert word in line
    assert len(line) <= 3 * 100, line


def test_sgd_looks_ahead_along_a_momentum_only() -> None:
    with pytest.raises(InputError, match="nesterov must come with momentum > 0"):
        experiments.load(
            METHOD, ["system.optimizer.name=SGD", f"{OPTIMIZER}={{nesterov: true, betas: null, eps: null}}"]
        )
