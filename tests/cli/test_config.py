"""What a user can write wrong in a config or on the command line is told in one line with a remedy."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from dreamprop.cli import main
from dreamprop.config.loader import InputError, keys, overrides, read
from dreamprop.methods.factory import make_field, make_optimizer
from dreamprop.runs import experiment as experiments
from dreamprop.runs.config import ParallelConfig

REPOSITORY = Path(__file__).parents[2]
Cli = Callable[..., int]
Refused = Callable[[int], str]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("parallel.window=0", ["parallel.window", ">= 1", "got 0", "use 1"]),
        ("parallel.windw=8", ["unknown key parallel.windw", "parallel.window"]),
        ("guidance_scale=7", ["unknown key guidance_scale", "system.guidance.guidance_scale"]),
        ("parallel.window=eight", ["parallel.window", "'eight'", "takes int"]),
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
        ("parallel.predictor=guess", ["parallel.predictor", "momentum, hold"]),
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


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in pairwise("abcdefghi")
)
"""Nine lines that stand for 400 million values."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parallel: {window: 8", ["is not YAML", "line"]),
        ("name: a\n  b: c: d", ["is not YAML", "line 2"]),
        ("- 1\n- 2", ["must be a mapping"]),
        ("paralel: {window: 8}", ["unknown key paralel", "parallel"]),
        ("parallel: null", ["parallel must be a block"]),
        ("parallel: []", ["parallel must be a block"]),
        ("name: " + "[" * 900 + "]" * 900, ["nested too deeply"]),
        ("parallel: {buffer_units: {a: " * 300 + "1" + "}}" * 300, ["a"]),
        ("seed: " + "9" * 5000, ["cannot be read"]),
        ("\x00\x01", ["cannot be read"]),
        (LAUGHS, ["at most 10000 values", "write the values"]),
        ("a: &a [1, *a]", ["alias to what it stands in"]),
    ],
)
def test_a_wrong_file_is_one_line(refused: Refused, text: str, words: list[str]) -> None:
    Path("broken.yaml").write_text(text)
    line = refused(main(["--config", "broken.yaml", "--train"]))
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train"], ["--config", "configs/dreamfusion.yaml"]),
        (["--config", "toy.yaml"], ["--train"]),
        (["--config", "missing.yaml", "--train"], ["missing.yaml", "not a file"]),
        (["--config", "toy.yaml", "--tran"], ["unknown flag --tran", "--train"]),
        (["--config", "toy.yaml", "--train", "--compare"], ["not allowed"]),
        (["--config", "toy.yaml", "--export"], ["--resume"]),
        (["--config", "toy.yaml", "--compare", "--baseline"], ["--baseline"]),
        (["--config", "toy.yaml", "--train", "--gpu", "one"], ["--gpu", "one"]),
        (["--config", "toy.yaml", "--train", "--gpu", "99"], ["cuda:99", "CUDA devices"]),
    ],
)
def test_wrong_flags_are_one_line(refused: Refused, arguments: list[str], words: list[str]) -> None:
    line = refused(main(arguments))
    for word in words:
        assert word in line


def test_several_processes_must_know_where_to_meet(
    cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    line = refused(cli("--train"))
    assert "WORLD_SIZE must come with RANK, MASTER_ADDR, MASTER_PORT, got 8" in line and "torchrun" in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE must be a whole number, got 'two'"),
        ("MASTER_PORT", "-1", "MASTER_PORT must be a whole number, got '-1'"),
        ("RANK", "5", "RANK must be a finite number <= 1, got 5"),
    ],
)
def test_what_a_launcher_says_must_make_sense(
    cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    launched = {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    for key, usual in (launched | {name: value}).items():
        monkeypatch.setenv(key, usual)
    assert words in refused(cli("--train"))


@pytest.mark.parametrize("config", sorted(p.name for p in (REPOSITORY / "configs").glob("*.yaml")))
def test_shipped_configs_are_valid(config: str) -> None:
    experiment = experiments.load(REPOSITORY / "configs" / config)
    assert experiment.config.name == config.removesuffix(".yaml")


def test_overrides_are_read_as_omegaconf_reads_them() -> None:
    arguments = ["data.batch_size=[2,4]", "data.resolution_milestones=[10]", "parallel.threshold=5e-4"]
    arguments += ["system.prompt_processor.prompt=a blue cube", "tag=${rmspace:${name} run,_}"]
    config = experiments.load(REPOSITORY / "configs" / "dreamfusion.yaml", arguments).config
    assert config.data.batch_size == [2, 4]
    assert config.data.resolution_milestones == [10]
    assert config.parallel.threshold == 5e-4
    assert config.system.prompt_processor.prompt == "a blue cube"
    assert config.tag == "dreamfusion_run"


def test_the_design_s_keys_exist() -> None:
    known = set(keys(experiments.schema("dreamfusion-system")))
    assert {
        "name", "tag", "exp_root_dir", "seed", "data.batch_size", "data.width", "trainer.max_steps",
        "system.prompt_processor.prompt", "system.guidance.guidance_scale", "system.loss.lambda_sds",
        "parallel.window", "parallel.tolerance", "parallel.error_rule", "parallel.threshold",
        "parallel.decay", "parallel.aggregate", "parallel.predictor", "parallel.evaluator",
        "parallel.sub_batch", "parallel.layout", "parallel.on_nonfinite",
    } <= known  # fmt: skip


METHOD = REPOSITORY / "configs" / "dreamfusion.yaml"
OPTIMIZER = "system.optimizer.args"


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


@pytest.mark.parametrize("override", ["parallel.decay=1", "parallel.decay=0", "parallel.threshold=0"])
def test_what_the_rule_takes_a_config_takes(cli: Cli, override: str) -> None:
    assert cli("--train", "parallel.error_rule=paper", override) == 0


def test_sgd_looks_ahead_along_a_momentum_only() -> None:
    with pytest.raises(InputError, match="nesterov must come with momentum > 0"):
        experiments.load(
            METHOD, ["system.optimizer.name=SGD", f"{OPTIMIZER}={{nesterov: true, betas: null, eps: null}}"]
        )


def test_aliases_are_counted_and_not_written_out(place: Path) -> None:
    wide = f"name=[&a [{','.join('x' * 200)}], [{','.join(60 * ['*a'])}]]"
    with pytest.raises(InputError, match=r"override 'name=.*' must stand for at most 10000 values"):
        overrides([wide])
    Path("few.yaml").write_text("a: &a {b: 1}\nc: [*a, *a]\nd: {<<: *a, e: *a}\n")
    assert read("few.yaml") == {"a": {"b": 1}, "c": [{"b": 1}] * 2, "d": {"b": 1, "e": {"b": 1}}}


def test_chains_of_interpolations_are_refused_at_once() -> None:
    words = [
        "name",
        "exp_root_dir",
        "system.prompt_processor.negative_prompt",
        "parallel.predictor",
        "device",
    ]
    chain = [f"{one}={f'${{{other}}}' * 20}" for one, other in pairwise([*words, "parallel.layout"])]
    with pytest.raises(InputError, match="must lead to its value in at most 200 steps"):
        experiments.load(METHOD, chain)
    assert experiments.load(
        METHOD, ["name=${device}", "device=${parallel.layout}", "parallel.layout=replicated"]
    )


def test_groups_of_parameters_are_set_from_the_command_line() -> None:
    group = "system.optimizer.params"
    for override in (
        f"{group}.geometry.density.lr=0.05",
        f"{group}={{geometry.density: {{lr: 0.05}}}}",
        f"{group}[geometry.density].lr=0.05",
    ):
        system = experiments.load(METHOD, [override]).config.system
        made = make_optimizer(system.optimizer, "volume-grid", make_field(system).groups())
        assert {name: found.step for name, found in made.groups(0).items()} == {
            "geometry.density": 0.05,
            "geometry.color": 0.15,
        }


def test_an_empty_tag_is_made_from_the_prompt(place: Path) -> None:
    assert experiments.load(METHOD, ["tag="]).config.tag == "a_red_torus"
    Path("empty.yaml").write_text("tag:\nsystem: {prompt_processor: {prompt: a red cube}}")
    assert experiments.load("empty.yaml").config.tag == "a_red_cube"


def test_a_defect_of_the_program_is_no_mistake_of_the_user(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("shapes differ")

    with monkeypatch.context() as patch:
        patch.setitem(
            experiments.METHODS, "toy-system", replace(experiments.METHODS["toy-system"], process=broken)
        )
        assert cli("--train") == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "ValueError: shapes differ" in told and "error: " not in told

    monkeypatch.setattr(ParallelConfig, "__post_init__", broken)
    assert cli("--train") == 1
    assert "Traceback" in capsys.readouterr().err


def test_odd_prompts_make_one_folder_name() -> None:
    from dreamprop.runs.directory import tag_of

    assert tag_of("a red torus") == "a_red_torus"
    assert tag_of('  "a *shiny* <cube>?"  ') == "_a__shiny___cube___"
    assert len(tag_of("ü" * 500).encode()) <= 120
    for prompt in ("..", "a\\b", "a/b", "a\x00b", "/etc"):
        with pytest.raises(InputError):
            tag_of(prompt)
