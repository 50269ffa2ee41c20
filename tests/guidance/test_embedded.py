"""The shipped latent model under score distillation: pictures of 64, latents of 16, and a prompt that tells."""

from pathlib import Path

import pytest
import torch

from dreamprop.guidance.diffusion import Model, load
from dreamprop.guidance.prompt import Prompt, Views
from dreamprop.guidance.score_distillation import ScoreDistillation
from dreamprop.prior import MODELS
from dreamprop.prior.world import LARGE, PALETTE, compose, render_layers
from dreamprop.rng import generator
from dreamprop.runs import experiment as experiments
from tests.guidance import tiny

THINGS = {"a red torus": ("torus", 0), "a blue house": ("house", 5), "a green cone": ("cone", 3)}


@pytest.fixture(scope="module")
def model() -> Model:
    return load(MODELS["embedded"], "cpu")


def renders(count: int) -> torch.Tensor:
    """`count` views of each of THINGS, [3 * count, 3, 64, 64]."""
    g = generator(77, 0)
    found = []
    for shape, color in THINGS.values():
        layers, _ = render_layers(LARGE.solids[shape], count, g, LARGE)
        paint = PALETTE[color].expand(count, 3)
        found.append(compose(layers, paint, paint, LARGE.background(count, g, LARGE.size)))
    return torch.cat(found)


def test_sizes_are_those_of_the_autoencoder(model: Model) -> None:
    assert (model.channels, model.vae_scale_factor, model.resolution) == (4, 4, 64)
    assert model.prediction == "epsilon"
    # Stable Diffusion's last cumulative alpha
    assert model.alphas_cumprod[-1].item() == pytest.approx(0.00466, rel=1e-3)
    z = model.encode(renders(4), None)
    assert z.shape == (12, 4, 16, 16) and 0.5 < z.std() < 2


def test_a_gradient_reaches_the_pixels(model: Model) -> None:
    sds = ScoreDistillation(model, Prompt.of(model, "a red torus", "", Views()), guidance_scale=15.0)
    pictures = renders(1).requires_grad_()
    draw = sds.draw(3, 0, generator(0, 0))
    assert draw.noise.shape == (3, 4, 16, 16)
    z, grad = sds.gradient(tiny.asked(pictures, draw, torch.zeros(3), torch.zeros(3)), {})
    (through,) = torch.autograd.grad((z * grad).sum(), pictures)
    assert grad.isfinite().all() and through.isfinite().all()
    assert (through.abs().amax((1, 2, 3)) > 0).all()


def test_the_prompt_that_fits_predicts_the_noise_best(model: Model) -> None:
    count = 6
    z = model.encode(renders(count), None)
    g = generator(78, 0)
    timesteps = torch.randint(300, 800, (len(z),), generator=g)
    noise = torch.randn(z.shape, generator=g)
    alphas = model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * z + (1 - alphas).sqrt() * noise
    errors = torch.stack(
        [
            (model.predict(noisy, timesteps, model.embed([prompt] * len(z))) - noise).square().mean((1, 2, 3))
            for prompt in THINGS
        ]
    )  # [prompts, pictures]
    mean = errors.view(len(THINGS), len(THINGS), count).mean(-1)  # [prompts, things]
    assert torch.equal(mean.argmin(0), torch.arange(len(THINGS)))


def test_a_config_names_the_model() -> None:
    experiment = experiments.load(Path(__file__).parents[2] / "configs" / "dreamfusion.yaml")
    assert experiment.judged == experiment.prompt
    process = experiments.make_process(experiment)
    drift = process.drift(process.init())
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in drift.grads.values())
