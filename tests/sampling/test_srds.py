"""SRDS on a small pipeline: the sampler's own pictures, or nearly so in fewer rounds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.sampling import Denoising, PureScheduler, parareal, srds
from dreamprop.sampling.parareal import differences, num_rounds
from dreamprop.sampling.process import from_epsilon
from dreamprop.state import clone, equal
from tests.distributed.cases import denoising
from tests.sampling.pipes import NOISY, SCHEDULERS, pipeline, scheduler, seeded

PROMPTS = ["a red torus", "a cube"]
DETERMINISTIC = [name for name in SCHEDULERS if name not in NOISY]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_scheduler(pipeline(tmp_path_factory.mktemp("tiny")), "DDIMScheduler")


def with_scheduler(pipe: Any, name: str, **options: Any) -> Any:
    """The same pipeline with another scheduler."""
    found = copy.copy(pipe)
    found.register_modules(scheduler=scheduler(name, **options))
    return found


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_tolerance_0_is_the_pipelines_own_picture(pipe: Any, name: str) -> None:
    pipe = with_scheduler(pipe, name)
    arguments = {"num_inference_steps": 12, "output_type": "latent", "guidance_scale": 5.0}
    expected = pipe(PROMPTS, generator=seeded(), **arguments).images
    got = srds(pipe, PROMPTS, generator=seeded(), tolerance=0.0, evaluator="serial", **arguments)
    assert torch.equal(got.images, expected)
    assert (got.stats.num_rounds, len(differences(got.stats))) == (12, 4)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_all_sweeps_are_the_sequential_chain_whatever_the_scheduler(name: str) -> None:
    """Its history included, which blocks hand on; and none of them writes into a state."""
    process = denoising(name, 13)
    kept: list[tuple[dp.State, dp.State]] = []

    def evaluator(process: dp.Process, states: list[dp.State]) -> list[dp.Drift]:
        kept.extend((state, clone(state)) for state in states)
        return dp.evaluate.serial(process, states)

    got = parareal(process, process.num_steps, 4, tolerance=0.0, evaluator=evaluator)
    assert equal(got.state, dp.solve_sequential(process, process.num_steps).state)
    assert all(equal(*pair) for pair in kept)


class Exact:
    """What a perfect network predicts where pictures are normal around 0.5 with a standard deviation of 0.3."""

    def __init__(self, kind: str) -> None:
        self.kind, self.levels = kind, scheduler("DDIMScheduler").alphas_cumprod

    def __call__(self, samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        level = self.levels[timesteps.round().long()].view(-1, 1, 1, 1)
        noise = (1 - level).sqrt() * (samples - 0.5 * level.sqrt()) / (0.09 * level + 1 - level)
        return from_epsilon(noise, samples, level, self.kind)


@pytest.mark.parametrize(
    ("name", "prediction"),
    [(name, "epsilon") for name in DETERMINISTIC]
    + [(name, kind) for name in DETERMINISTIC[:3] for kind in ("v_prediction", "sample")],
)
def test_every_sweep_leaves_little_of_what_was_off(name: str, prediction: str) -> None:
    """With schedulers that have a history too: corrected in the samples alone, Heun's and UniPC's get no nearer."""
    pure = PureScheduler(scheduler(name, prediction_type=prediction), 49)
    noise = torch.randn(2, 4, 8, 8, generator=seeded()) * pure.init_noise_sigma
    process = Denoising(Exact(prediction), pure, noise)
    sequential = process.samples(dp.solve_sequential(process, process.num_steps).state)
    off = []
    for sweeps in (1, 2, 3):
        got = parareal(
            process, process.num_steps, tolerance=0.0, max_sweeps=sweeps, evaluator="batched"
        ).state
        off.append(float((process.samples(got) - sequential).abs().mean()))
    assert off[0] < 0.01 and off[1] < off[0] / 20 and off[2] < off[1] / 20


def test_a_tolerance_stops_where_it_says(pipe: Any) -> None:
    """The worst picture decides, and the output has what it took."""
    arguments = {"num_inference_steps": 49, "output_type": "latent", "guidance_scale": 3.0}
    expected = pipe(PROMPTS, generator=seeded(), **arguments).images
    got = srds(pipe, PROMPTS, generator=seeded(), tolerance=0.02, evaluator="batched", **arguments)
    found = differences(got.stats)
    assert found[-1] < 0.02 <= found[-2]
    assert got.stats.num_rounds == num_rounds(49, 7, len(found)) < 49
    assert float((got.images - expected).abs().mean()) < 0.02
    fewer = srds(
        pipe, PROMPTS, generator=seeded(), tolerance=0.02, evaluator="batched", max_sweeps=1, blocks=10, **arguments
    )  # fmt: skip
    assert fewer.stats.num_rounds == num_rounds(49, 10, 1)
    assert srds(pipe, "a cube", num_inference_steps=4, generator=seeded()).images[0].size == (16, 16)


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in NOISY), ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"})],
)
def test_a_scheduler_that_adds_noise_is_refused(pipe: Any, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"add no noise for srds, got {name}; use DDIMScheduler") as refused:
        srds(with_scheduler(pipe, name, **options), "a cube", num_inference_steps=9)
    assert "\n" not in str(refused.value)


def test_a_first_sample_of_pure_noise_is_refused(pipe: Any) -> None:
    told = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    with pytest.raises(
        ValueError, match=r"must leave some of the picture.*got rescale_betas_zero_snr; use paradigms"
    ):
        srds(with_scheduler(pipe, "DDIMScheduler", **told), "a cube", num_inference_steps=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": 10}, r"blocks must be an integer in \[1, num_steps = 9\], got 10; use 3"),
        ({"tolerance": -1.0}, "tolerance must be >= 0, got -1.0; use 0"),
        ({"num_inference_steps": 0}, r"num_inference_steps must be an integer in \[1, 1000\], got 0"),
    ],
)
def test_wrong_input_is_one_line(pipe: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        srds(pipe, "a cube", **{"num_inference_steps": 9, **arguments})
    assert "\n" not in str(refused.value)
