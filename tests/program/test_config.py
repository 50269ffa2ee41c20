"""What a user can write wrong in a config or on the command line is told in one line with a remedy."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamprop import build
from dreamprop.cli import main
from dreamprop.config import InputError, keys

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
        ("parallel.error_rule=stepp", ["parallel.error_rule", "step, paper", "'stepp'"]),
        ("parallel.error_rule=exact", ["parallel.error_rule", "step, paper", "'exact'"]),
        ("parallel.evaluator=gpu", ["parallel.evaluator", "batched, serial, distributed", "'gpu'"]),
        ("parallel.layout=split", ["parallel.layout", "replicated, sharded", "'split'"]),
        ("parallel.purity=lax", ["parallel.purity", "strict, warn", "'lax'"]),
        ("parallel.purity_tolerance=1.5", ["parallel.purity_tolerance", "[0, 1)", "1.5", "0.01"]),
        ("parallel.on_nonfinite=ignore", ["parallel.on_nonfinite", "stop, skip", "'ignore'"]),
        ("parallel.timeout=0", ["parallel.timeout", "> 0 seconds"]),
        ("checkpoint.train_time_interval=-1", ["checkpoint.train_time_interval", ">= 0 seconds"]),
        ("parallel.predictor=guess", ["parallel.predictor", "momentum, hold"]),
        ("parallel.aggregate=max", ["parallel.aggregate", "median, mean, middle"]),
        ("parallel.tolerance=-1", ["parallel.tolerance", ">= 0"]),
        ("parallel.tolerance=.nan", ["parallel.tolerance", "finite"]),
        ("parallel.decay=1", ["parallel.decay", "[0, 1)"]),
        ("parallel.sub_batch=0", ["parallel.sub_batch", ">= 1"]),
        ("trainer.max_steps=0", ["trainer.max_steps", ">= 1"]),
        ("checkpoint.keep=0", ["checkpoint.keep", ">= 1"]),
        ("output.views=0", ["output.views", ">= 1"]),
        ("export.threshold=0", ["export.threshold", "> 0"]),
        ("seed=-1", ["seed", "got -1"]),
        ("device=tpu", ["device", "'tpu'", "use auto"]),
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
    assert sorted(os.listdir(place)) == ["toy.yaml"]
    assert sorted(os.listdir(place.parent)) == [place.name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parallel: {window: 8", ["is not YAML", "line"]),
        ("name: a\n  b: c: d", ["is not YAML", "line 2"]),
        ("- 1\n- 2", ["must be a mapping"]),
        ("paralel: {window: 8}", ["unknown key paralel", "parallel"]),
        ("parallel: null", ["parallel must be a block"]),
        ("\x00\x01", ["cannot be read"]),
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


@pytest.mark.parametrize("config", sorted(p.name for p in (REPOSITORY / "configs").glob("*.yaml")))
def test_shipped_configs_are_valid(config: str) -> None:
    experiment = build.load(REPOSITORY / "configs" / config)
    assert experiment.config.name == config.removesuffix(".yaml")


def test_overrides_are_read_as_omegaconf_reads_them() -> None:
    arguments = ["data.batch_size=[2,4]", "data.resolution_milestones=[10]", "parallel.threshold=5e-4"]
    arguments += ["system.prompt_processor.prompt=a blue cube", "tag=${rmspace:${name} run,_}"]
    config = build.load(REPOSITORY / "configs" / "dreamfusion.yaml", arguments).config
    assert config.data.batch_size == [2, 4]
    assert config.data.resolution_milestones == [10]
    assert config.parallel.threshold == 5e-4
    assert config.system.prompt_processor.prompt == "a blue cube"
    assert config.tag == "dreamfusion_run"


def test_the_design_s_keys_exist() -> None:
    known = set(keys(build.schema("dreamfusion-system")))
    assert {
        "name", "tag", "exp_root_dir", "seed", "data.batch_size", "data.width", "trainer.max_steps",
        "system.prompt_processor.prompt", "system.guidance.guidance_scale", "system.loss.lambda_sds",
        "parallel.window", "parallel.tolerance", "parallel.error_rule", "parallel.threshold",
        "parallel.decay", "parallel.aggregate", "parallel.predictor", "parallel.evaluator",
        "parallel.sub_batch", "parallel.layout", "parallel.on_nonfinite",
    } <= known  # fmt: skip


def test_odd_prompts_make_one_folder_name() -> None:
    from dreamprop.folder import tag_of

    assert tag_of("a red torus") == "a_red_torus"
    assert tag_of('  "a *shiny* <cube>?"  ') == "_a__shiny___cube___"
    assert len(tag_of("ü" * 500).encode()) <= 120
    for prompt in ("..", "a\\b", "a/b", "a\x00b", "/etc"):
        with pytest.raises(InputError):
            tag_of(prompt)
