"""A shortened config reaches each of its milestones at the same share of its steps."""

from __future__ import annotations

from omegaconf import OmegaConf

CONFIG = """
data: {width: [64, 512], resolution_milestones: [5000], eval_elevation_deg: 15.0}
system:
  geometry:
    grid_size: [100, 100, 100]
    pos_encoding_config: {start_level: 8, start_step: 2000, update_steps: 500}
  material: {ambient_only_steps: 2001}
  never: {start_step: 1000000000}
  guidance:
    max_step_percent: [5000, 0.98, 0.5, 5001]
    min_step_percent: 0.02
    grad_clip: [0, 2.0, 8.0, 1000]
    guidance_scale: [2000, 20.0, 5.0, 8000]
  loss:
    lambda_sds: 1.0
    lambda_orient: [10.0, 1000.0, 5000]
    lambda_opaque: [0, 0.0, 1.0, 5000, 2.0, 10000]
trainer: {max_steps: 10000, val_check_interval: 200}
"""


def shortened(steps: int) -> object:
    from shortened import overrides  # of the folder that the fixture puts on the path

    tree = OmegaConf.create(CONFIG)
    plain = OmegaConf.to_container(tree)
    return OmegaConf.to_container(OmegaConf.merge(tree, OmegaConf.from_dotlist(overrides(plain, steps))))  # type: ignore[arg-type]


def test_every_number_of_steps_is_divided_and_nothing_else() -> None:
    wanted = OmegaConf.to_container(OmegaConf.create(CONFIG))
    wanted["data"]["resolution_milestones"] = [250]  # type: ignore[index,call-overload]
    system = wanted["system"]  # type: ignore[index,call-overload]
    system["geometry"]["pos_encoding_config"] |= {"start_step": 100, "update_steps": 25}
    system["material"]["ambient_only_steps"] = 100
    system["guidance"] |= {"max_step_percent": [250, 0.98, 0.5, 251], "grad_clip": [0, 2.0, 8.0, 50]}
    system["guidance"]["guidance_scale"] = [100, 20.0, 5.0, 400]
    system["loss"] |= {"lambda_orient": [10.0, 1000.0, 250], "lambda_opaque": [0, 0.0, 1.0, 250, 2.0, 500]}
    wanted["trainer"]["max_steps"] = 500  # type: ignore[index,call-overload]
    assert shortened(500) == wanted


def test_milestones_that_fall_together_stay_in_order_and_above_zero() -> None:
    made = shortened(2)
    guidance = made["system"]["guidance"]  # type: ignore[index]
    assert guidance["max_step_percent"] == [1, 0.98, 0.5, 2]
    assert made["system"]["geometry"]["pos_encoding_config"]["update_steps"] == 1  # type: ignore[index]


def test_all_of_the_steps_change_nothing() -> None:
    assert shortened(10000) == OmegaConf.to_container(OmegaConf.create(CONFIG))
