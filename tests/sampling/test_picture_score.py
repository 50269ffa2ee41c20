"""Score samplers on pictures: the model's levels of noise are times, and DDIM is one of the integrators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.piadm import piadm, reverse_chain
from dreamprop.sampling.picture_score import PictureScore
from dreamprop.sampling.pipeline import Prompted
from dreamprop.sampling.randomized_midpoint import randomized_midpoint

from .pipes import network, pipeline, scheduler, seeded


class Model:
    """Levels of Stable Diffusion, and what stands for a network."""

    alphas_cumprod: Tensor = scheduler("DDIMScheduler").alphas_cumprod

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def noise(self, samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        self.seen.append(timesteps)
        return network(samples, timesteps, pictures)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pipeline(tmp_path_factory.mktemp("tiny"))


def test_times_and_timesteps_are_each_others_inverse() -> None:
    model = Model()
    score = PictureScore(model, 2)
    t = -model.alphas_cumprod.double().log()
    torch.testing.assert_close(score.timestep(t), torch.arange(1000.0).double(), rtol=0, atol=1e-9)
    between = score.timestep((t[:-1] + t[1:]) / 2)
    torch.testing.assert_close(between, torch.arange(999.0).double() + 0.5, rtol=0, atol=1e-9)
    grid = torch.tensor(score.times(3, 11), dtype=torch.float64)
    torch.testing.assert_close(
        score.timestep(grid[:, 0]), torch.tensor([999.0, 666.0, 333.0]).double(), rtol=0, atol=1e-6
    )
    assert torch.equal(grid[1:, 0], grid[:-1, -1])


def test_the_score_is_the_predicted_noise_over_its_deviation() -> None:
    model, x = Model(), torch.randn(4, 3, 2, 2, generator=seeded())
    at = torch.tensor([900, 900, 17, 17])
    found = PictureScore(model, 2)(x, -model.alphas_cumprod[at].double().log())
    deviation = (1 - model.alphas_cumprod[at]).sqrt().view(-1, 1, 1, 1)
    expected = -network(x, at, torch.tensor([0, 1, 0, 1])) / deviation
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_holding_the_noise_is_ddim_of_diffusers() -> None:
    model, ddim = Model(), scheduler("DDIMScheduler")
    ddim.set_timesteps(20)
    steps = [*ddim.timesteps.tolist(), 0]
    times = (-model.alphas_cumprod[steps].double().log()).tolist()
    x = torch.randn(2, 3, 4, 4, generator=seeded())
    score = PictureScore(model, 2)
    chain, _ = reverse_chain(score, x, [times], form="ode", sweeps=1, hold="noise")
    for t in steps[:-1]:
        eps = network(x, torch.tensor([t, t]), torch.arange(2))
        x = ddim.step(eps, t, x, eta=0.0).prev_sample
    found = dp.solve_sequential(chain, 20).state.params["x"]
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_pictures_of_a_pipeline(pipe: Any) -> None:
    rounds: list[dp.Round] = []
    arguments = {"num_images_per_prompt": 2, "guidance_scale": 3.0, "output_type": "latent"}
    found = piadm(
        pipe, "a red torus", generator=seeded(), blocks=3, points=4, callback=rounds.append, **arguments
    )
    assert found.images.shape == (2, 4, 8, 8) and bool(found.images.isfinite().all())
    assert found.stats.num_rounds == 9 == len(rounds) and found.stats.num_drifts == 27
    exact = piadm(
        pipe, "a red torus", generator=seeded(), blocks=3, points=4, sweeps=4, evaluator="serial", **arguments
    )
    asked = Prompted(pipe, "a red torus", generator=seeded(), num_images_per_prompt=2, guidance_scale=3.0)
    score = PictureScore(asked, 2)
    chain, _ = reverse_chain(score, asked.latents, score.times(3, 4), form="ode", sweeps=1, hold="noise")
    assert torch.equal(exact.images, dp.solve_sequential(chain, 12).state.params["x"])
    torch.testing.assert_close(found.images, exact.images, rtol=0, atol=0.05)


@pytest.mark.parametrize("form", ["sde", "ode"])
def test_correctors_and_midpoints_on_pictures(pipe: Any, form: str) -> None:
    corrector = Corrector(num_steps=2, sweeps=2)
    found = piadm(
        pipe, "a red torus", generator=seeded(), blocks=2, points=3, form=form, sweeps=2, hold="score",
        corrector=corrector,
    )  # fmt: skip
    assert found.images[0].size == (16, 16) and found.stats.num_rounds == 2 * (2 + 2)
    found = randomized_midpoint(
        pipe, "a red torus", generator=seeded(), num_inference_steps=4, midpoints=3, sweeps=1, form=form,
        blocks=2, corrector=corrector,
    )  # fmt: skip
    assert found.images[0].size == (16, 16) and found.stats.num_rounds == 4 * 3 + 2 * 2


def test_sequential_midpoints_ask_for_two_predictions_a_step(pipe: Any) -> None:
    arguments: dict[str, Any] = {"generator": seeded(), "num_inference_steps": 4, "output_type": "latent"}
    found = randomized_midpoint(pipe, "a red torus", evaluator="serial", **arguments)
    assert (found.stats.num_rounds, found.stats.num_drifts) == (8, 8)
    again = randomized_midpoint(
        pipe, "a red torus", evaluator="serial", **arguments | {"generator": seeded()}
    )
    assert torch.equal(found.images, again.images)
    other = randomized_midpoint(
        pipe, "a red torus", evaluator="serial", **arguments | {"generator": seeded(4)}
    )
    assert not torch.equal(found.images, other.images)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: piadm(p, "a torus", blocks=0), "blocks must be an integer >= 1, got 0"),
        (lambda p: piadm(p, "a torus", blocks=200, points=6), "blocks times points must be <= 999, got 1200"),
        (lambda p: piadm(p, "a torus", sweeps=0), "sweeps of a block must be an integer >= 1, got 0"),
        (lambda p: piadm(p, "a torus", form="x"), "form must be one of"),
        (lambda p: piadm(p, "a torus", hold="x"), "hold must be one of"),
        (lambda p: randomized_midpoint(p, "a torus", num_inference_steps=5, blocks=2), "blocks must divide"),
        (
            lambda p: randomized_midpoint(p, "a torus", num_inference_steps=0),
            "points must be an integer >= 1",
        ),
        (lambda p: randomized_midpoint(p, "a torus", midpoints=0), "midpoints must be >= 1, got 0"),
    ],
)
def test_wrong_input_is_one_line(pipe: Any, call: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call(pipe)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
