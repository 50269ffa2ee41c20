"""What a config and its overrides say is what a run is given."""

import pytest

from dreamprop.config.loader import keys
from dreamprop.methods.factory import make_field, make_optimizer
from dreamprop.runs import experiment as experiments
from tests.cli.runs import Cli
from tests.cli.shipped import METHOD, REPOSITORY


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


@pytest.mark.parametrize("override", ["parallel.decay=1", "parallel.decay=0", "parallel.threshold=0"])
def test_what_the_rule_takes_a_config_takes(cli: Cli, override: str) -> None:
    assert cli("--train", "parallel.error_rule=paper", override) == 0


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
