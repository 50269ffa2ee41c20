"""Score distillation against the formula written out in float64, on tiny random models of pixels and of latents."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop.guidance import diffusion
from dreamprop.guidance.config import GuidanceConfig, PromptConfig
from dreamprop.guidance.diffusion import Model, load
from dreamprop.guidance.factory import make_guidance
from dreamprop.guidance.prompt import DIRECTIONS, Prompt, Views
from dreamprop.guidance.protocol import Draw, join
from dreamprop.guidance.score_distillation import ScoreDistillation
from tests.guidance import tiny

FLOAT32 = 2e-4
"""Relative rounding of a small U-Net in float32 against float64."""


@pytest.fixture(scope="module")
def latents(folder: Path) -> Model:
    return load(tiny.save(folder / "latents", latent=True), "cpu")


def make(model: Model, **settings: object) -> ScoreDistillation:
    prompt = Prompt.of(model, "a red torus", "cube", Views())
    return ScoreDistillation(model, prompt, **{"guidance_scale": 7.0, **settings})  # type: ignore[arg-type]


def drawn(sds: ScoreDistillation, count: int = 3) -> Draw:
    return sds.draw(count, 0, torch.Generator().manual_seed(1))


def written_out(model: Model, z: torch.Tensor, draw: Draw, scale: float, weighting: str) -> torch.Tensor:
    """The gradient in float64; the U-Net alone is asked in float64 too."""
    z, noise = z.double(), draw.noise.double()
    a = model.alphas_cumprod.double()[draw.timesteps].view(-1, 1, 1, 1)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    prompts = ["a red torus, front view", "a red torus, overhead view", "a red torus, back view"]
    unet = type(model.unet).from_config(model.unet.config).double().eval()
    unet.load_state_dict(model.unet.state_dict())

    def eps(prompts: list[str]) -> torch.Tensor:
        out = unet(noisy, draw.timesteps, encoder_hidden_states=model.embed(prompts).double()).sample[
            :, : z.shape[1]
        ]
        if model.prediction == "epsilon":
            return out
        if model.prediction == "v_prediction":
            return a.sqrt() * out + (1 - a).sqrt() * noisy
        return (noisy - a.sqrt() * out) / (1 - a).sqrt()

    with torch.no_grad():
        free, told = eps(["cube"] * 3), eps(prompts)
    w = {"sds": 1 - a, "uniform": torch.ones_like(a), "fantasia3d": a.sqrt() * (1 - a)}[weighting]
    return w * (free + scale * (told - free) - noise)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d"])
def test_pixels_follow_the_formula(folder: Path, prediction: str, weighting: str) -> None:
    path = folder / prediction
    model = load(path if path.exists() else tiny.save(path, prediction=prediction), "cpu")
    sds = make(model, weighting=weighting)
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    draw = drawn(sds)
    z, grad = sds.gradient(tiny.asked(pictures, draw), {})
    expected = written_out(model, pictures.detach() * 2 - 1, draw, 7.0, weighting)
    assert (grad - expected).abs().max() < FLOAT32 * expected.abs().max()
    # d loss / d picture: the chain rule through z = 2 x - 1 alone, never through the U-Net
    (through,) = torch.autograd.grad((z * grad).sum(), pictures)
    assert torch.allclose(through, 2 * grad)


def test_learned_variances_are_dropped(folder: Path) -> None:
    model = load(tiny.save(folder / "six", out_channels=6), "cpu")
    sds = make(model)
    draw = drawn(sds)
    pictures = torch.rand(3, 3, 8, 8)
    _, grad = sds.gradient(tiny.asked(pictures, draw), {})
    expected = written_out(model, pictures * 2 - 1, draw, 7.0, "sds")
    assert grad.shape == pictures.shape
    assert (grad - expected).abs().max() < FLOAT32 * expected.abs().max()


def test_latents_follow_the_formula(latents: Model) -> None:
    sds = make(latents)
    assert sds.side == 16
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    draw = drawn(sds)
    z, grad = sds.gradient(tiny.asked(pictures, draw), {})
    vae = latents.vae
    posterior = vae.encode(pictures * 2 - 1).latent_dist
    expected_z = (posterior.mean + posterior.std * draw.posterior) * vae.config.scaling_factor
    assert torch.allclose(z, expected_z, atol=1e-6)
    expected = written_out(latents, z.detach(), draw, 7.0, "sds")
    assert (grad - expected).abs().max() < FLOAT32 * expected.abs().max()
    # the encoder is in the graph
    (through,) = torch.autograd.grad((z * grad).sum(), pictures)
    (again,) = torch.autograd.grad((expected_z * grad).sum(), pictures)
    assert torch.allclose(through, again, atol=1e-5 * float(again.abs().max()))
    assert through.abs().min() >= 0 and through.abs().max() > 0


def test_pictures_of_a_batch_are_independent(pixels: Model) -> None:
    sds = make(pixels)
    draws = [sds.draw(1, 0, torch.Generator().manual_seed(i)) for i in range(3)]
    pictures = torch.rand(3, 3, 8, 8)
    _, together = sds.gradient(tiny.asked(pictures, join(draws)), {})
    for i in range(3):
        one = slice(i, i + 1)
        single = tiny.asked(pictures[one], draws[i], tiny.ELEVATION[one], tiny.AZIMUTH[one])
        _, alone = sds.gradient(single, {})
        assert torch.allclose(alone, together[one], atol=1e-5)


def test_numbers_follow_the_step_of_each_picture(pixels: Model) -> None:
    sds = make(pixels, guidance_scale=[0, 1.0, 11.0, 10], grad_clip=[0, 0.1, 0.2, 10])
    draw, pictures = drawn(sds), torch.rand(3, 3, 8, 8)
    _, grad = sds.gradient(tiny.asked(pictures, draw, steps=[0, 5, 10]), {})
    for i, (scale, bound) in enumerate([(1.0, 0.1), (6.0, 0.15), (11.0, 0.2)]):
        expected = written_out(pixels, pictures * 2 - 1, draw, scale, "sds")[i].clamp(-bound, bound)
        assert torch.allclose(grad[i].double(), expected, atol=1e-4)


def test_timesteps_stay_in_their_range(pixels: Model) -> None:
    sds = make(pixels, min_step_percent=0.2, max_step_percent=[0, 0.9, 0.3, 100])
    for step, high in ((0, 900), (50, 600), (100, 300)):
        t = sds.draw(4000, step, torch.Generator().manual_seed(step)).timesteps
        assert t.min() == 200 and t.max() == high  # 4000 draws of at most 700 values: each end is met
    with pytest.raises(ValueError, match="min_step_percent must be <="):
        make(pixels, min_step_percent=0.5, max_step_percent=0.4).draw(1, 0, torch.Generator())


def test_pictures_are_resized_to_the_model(pixels: Model) -> None:
    sds = make(pixels)
    assert sds.resize(torch.rand(2, 3, 4, 4)).shape == (2, 3, 8, 8)
    same = torch.rand(2, 3, 8, 8)
    assert sds.resize(same) is same


def test_directions_have_threestudios_bounds() -> None:
    azimuth = torch.tensor([0.0, 44, 46, 90, 134, 136, 180, 225.5, 314, 316, -44, -136, 360])
    expected = [1, 1, 0, 0, 0, 2, 2, 0, 0, 1, 1, 2, 1]
    found = Views().direction(torch.zeros_like(azimuth), azimuth)
    assert found.tolist() == expected
    assert Views().direction(torch.tensor([60.0, 61]), torch.zeros(2)).tolist() == [
        1,
        DIRECTIONS.index("overhead"),
    ]


def test_prompts_speak_of_the_direction(pixels: Model) -> None:
    prompt = Prompt.of(pixels, "a red torus", "", Views())
    found = prompt.embeddings(torch.tensor([0.0, 80.0]), torch.tensor([180.0, 0.0]))
    expected = pixels.embed(["", "", "a red torus, back view", "a red torus, overhead view"])
    assert torch.allclose(found, expected, atol=1e-6)
    plain = Prompt.of(pixels, "a red torus", "", Views(), view_dependent=False)
    assert torch.allclose(plain.positive, pixels.embed(["a red torus"] * 4), atol=1e-6)
    with pytest.raises(ValueError, match="prompt must have a word"):
        Prompt.of(pixels, "  ", "", Views())


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=r"must be a folder with a model_index\.json") as told:
            load(path, "cpu")
        assert "\n" not in str(told.value)
    damaged = tiny.save(tmp_path / "damaged")
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded") as told:
        load(damaged, "cpu")
    assert "\n" not in str(told.value)
    foreign = tiny.save(tmp_path / "foreign")
    index = (
        (foreign / "model_index.json")
        .read_text()
        .replace('"transformers", "CLIPTextModel"', '"os", "system"')
    )
    (foreign / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match="which is not one of diffusers, transformers"):
        load(foreign, "cpu")


def test_the_text_encoder_is_freed_once_prompts_are_embedded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[weakref.ref[torch.Tensor]] = []

    def load_and_watch(*args: Any) -> Model:
        model = load(*args)
        weights.extend(weakref.ref(p) for p in model.text_encoder.parameters())
        return model

    path = tiny.save(folder / "freed")
    monkeypatch.setattr(diffusion, "load", load_and_watch)
    config = GuidanceConfig(pretrained_model_name_or_path=str(path))
    asked = PromptConfig(prompt="a red torus", negative_prompt="cube")
    guidance = make_guidance(config, asked, torch.device("cpu"))
    assert len(weights) > 5 and all(weight() is None for weight in weights)
    assert isinstance(guidance, ScoreDistillation) and guidance.model.text_encoder is None
    # what was embedded is what a model that keeps its encoder embeds
    kept = Prompt.of(load(path, "cpu"), "a red torus", "cube", Views())
    assert torch.equal(guidance.prompt.positive, kept.positive)
    assert torch.equal(guidance.prompt.negative, kept.negative)


def test_global_random_state_is_left_alone(pixels: Model) -> None:
    before = torch.get_rng_state()
    sds = make(pixels)
    sds.gradient(tiny.asked(torch.rand(3, 3, 8, 8, generator=torch.Generator()), drawn(sds)), {})
    assert torch.equal(before, torch.get_rng_state())
