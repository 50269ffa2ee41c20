"""Each loss against its formula written out in float64: on a denoiser in closed form, and on a tiny U-Net."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamprop.errors import InputError
from dreamprop.guidance.config import GuidanceConfig
from dreamprop.guidance.diffusion import Model, load
from dreamprop.guidance.losses import LOSSES
from dreamprop.guidance.prompt import Prompt, Views
from dreamprop.guidance.protocol import Draw, join
from dreamprop.guidance.score_distillation import ScoreDistillation
from dreamprop.guidance.sds import sds
from dreamprop.guidance.sjc import sjc
from tests.device_reads import device_reads
from tests.guidance import tiny

Predict = Callable[[Tensor, int, str], Tensor]
"""eps(x, t, prompt) of one picture, in float64; the prompt is `told`, `negative` or `empty`."""

OPTIONS: dict[str, dict[str, Any]] = {
    "sds": {},
    "sjc": {"variance_reduction": True},
    "ism": {"delta_t": 60, "delta_s": 150},
    "sdi": {"inversion_steps": 3, "inversion_scale": -2.0},
}
PLAIN_SJC = {"variance_reduction": False}
UNTOLD_SDI = {"inversion_steps": 3, "inversion_scale": 0.0}
ALPHAS_CUMPROD = torch.linspace(0.9999, 0.02, 1000, dtype=torch.float64)
TIMESTEPS = (730, 0, 30, 401, 211)
"""Paths of five hops to none; intervals that would begin before the path."""
SCALES = (7.0, 1.0, 3.0, 0.0, 5.0)
FLOAT64 = 1e-10
"""Relative; far above rounding through a dozen steps, far below any change of a formula."""
FLOAT32 = 1e-3
"""Relative rounding of a small U-Net in float32 against float64, asked up to six times in a row."""


# -- the formulas, for one picture -------------------------------------------------------------------------------------


def guided(eps: Predict, x: Tensor, t: int, scale: float) -> Tensor:
    return (1 - scale) * eps(x, t, "negative") + scale * eps(x, t, "told")


def hop(x: Tensor, noise: Tensor, a: float, b: float) -> Tensor:
    """From abar a to abar b, in the form of the paper's eq. 13: x / sqrt(abar) moves along the noise."""
    return (x / a**0.5 + ((1 / b - 1) ** 0.5 - (1 / a - 1) ** 0.5) * noise) * b**0.5


def sds_by_hand(eps: Predict, abar: list[float], z: Tensor, t: int, noise: Tensor, scale: float) -> Tensor:
    return guided(eps, abar[t] ** 0.5 * z + (1 - abar[t]) ** 0.5 * noise, t, scale) - noise


def sjc_by_hand(
    eps: Predict,
    abar: list[float],
    z: Tensor,
    t: int,
    noise: Tensor,
    scale: float,
    variance_reduction: bool = True,
) -> Tensor:
    sigma = ((1 - abar[t]) / abar[t]) ** 0.5
    y = z + sigma * noise
    denoised = y - sigma * guided(eps, y / (1 + sigma**2) ** 0.5, t, scale)
    score = (denoised - (z if variance_reduction else y)) / sigma**2
    return -sigma * score


def ism_by_hand(eps: Predict, abar: list[float], z: Tensor, t: int, noise: Tensor, scale: float) -> Tensor:
    s = max(t - 60, 0)
    path = [*range(0, s, 150), s, t]
    level = [1.0] + [abar[at] if at else 1.0 for at in path]
    x, at = z, 0
    for k, there in enumerate(path):
        found = eps(x, at, "empty")
        x, at = hop(x, found, level[k], level[k + 1]), there
    return guided(eps, x, t, scale) - found


def sdi_by_hand(
    eps: Predict, abar: list[float], z: Tensor, t: int, noise: Tensor, scale: float, told: bool = True
) -> Tensor:
    t = max(t, 1)
    x, at, level = z, 0, 1.0
    for there in (t // 3, 2 * t // 3, t):
        next_level = abar[there] if there else 1.0
        found = guided(eps, x, at, -2.0) if told else eps(x, at, "empty")
        x, at, level = hop(x, found, level, next_level), there, next_level
    return guided(eps, x, t, scale) - (x - abar[t] ** 0.5 * z) / (1 - abar[t]) ** 0.5


BY_HAND: dict[str, Callable[..., Tensor]] = {
    "sds": sds_by_hand,
    "sjc": sjc_by_hand,
    "ism": ism_by_hand,
    "sdi": sdi_by_hand,
}


# -- a denoiser in closed form -----------------------------------------------------------------------------------------

MEANS = {"told": 0.8, "negative": -0.5, "empty": 0.1}


def curved(x: Tensor, t: Tensor | int, prompt: str) -> Tensor:
    """A prediction that depends on all that it is given, and on the picture in a curve."""
    return (
        torch.tanh(x - MEANS[prompt])
        + 0.3 * x.mean((-1, -2), keepdim=True)
        + 1e-3 * torch.as_tensor(t, dtype=x.dtype)
    )


class Curved:
    """A denoiser in float64 that counts the pictures of each call."""

    alphas_cumprod = ALPHAS_CUMPROD

    def __init__(self) -> None:
        self.calls: list[int] = []

    def unconditional(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        self.calls.append(len(noisy))
        return curved(noisy, timesteps.view(-1, 1, 1, 1), "empty")

    def guided(self, noisy: Tensor, timesteps: Tensor, scale: Tensor | float) -> Tensor:
        self.calls.append(2 * len(noisy))
        t = timesteps.view(-1, 1, 1, 1)
        uncond = curved(noisy, t, "negative")
        return uncond + scale * (curved(noisy, t, "told") - uncond)


def pictures() -> tuple[Tensor, Draw, Tensor]:
    g = torch.Generator().manual_seed(3)
    z = torch.randn(5, 3, 4, 4, generator=g, dtype=torch.float64)
    noise = torch.randn(z.shape, generator=g, dtype=torch.float64)
    draw = Draw(torch.tensor(TIMESTEPS), noise, None, TIMESTEPS)
    return z, draw, torch.tensor(SCALES, dtype=torch.float64).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "variant"),
    [
        *((*of, {}) for of in OPTIONS.items()),
        ("sjc", PLAIN_SJC, PLAIN_SJC),
        ("sdi", UNTOLD_SDI, {"told": False}),
    ],
    ids=[*OPTIONS, "sjc, eq. 9", "sdi, told nothing"],
)
def test_a_loss_is_its_formula(name: str, options: dict[str, Any], variant: dict[str, Any]) -> None:
    z, draw, scale = pictures()
    with device_reads(0):
        found = LOSSES[name](Curved(), z, draw, scale, **options)
    for i, t in enumerate(TIMESTEPS):
        one = BY_HAND[name](curved, ALPHAS_CUMPROD.tolist(), z[i], t, draw.noise[i], SCALES[i], **variant)
        assert (found[i] - one).abs().max() < FLOAT64 * one.abs().max()
    assert found.dtype == torch.float64


def test_sjc_is_sds_without_its_weight() -> None:
    z, draw, scale = pictures()
    assert torch.equal(sjc(Curved(), z, draw, scale, variance_reduction=True), sds(Curved(), z, draw, scale))
    # what the reduction takes off is the noise itself, whose mean is 0
    plain = sjc(Curved(), z, draw, scale, variance_reduction=False)
    assert torch.allclose(plain - sds(Curved(), z, draw, scale), draw.noise)


def test_calls_hold_all_pictures_that_need_them() -> None:
    z, draw, scale = pictures()
    calls = {}
    for name, options in OPTIONS.items():
        denoiser = Curved()
        LOSSES[name](denoiser, z, draw, scale, **options)
        calls[name] = denoiser.calls
    assert calls["sds"] == calls["sjc"] == [10]
    hops = [ceil(max(t - 60, 0) / 150) for t in TIMESTEPS]  # 5, 0, 0, 3, 2
    assert calls["ism"] == [*(sum(h > k for h in hops) for k in range(max(hops))), 5, 10]
    assert calls["sdi"] == [10] * 4


def test_the_inverted_noise_is_found_again() -> None:
    """A model that takes the same noise out of whatever it is shown: inversion finds that noise, nothing is left."""

    class Certain(Curved):
        def unconditional(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
            return torch.full_like(noisy, 0.7)

        def guided(self, noisy: Tensor, timesteps: Tensor, scale: Tensor | float) -> Tensor:
            return torch.full_like(noisy, 0.7)

    z, draw, scale = pictures()
    for name in ("ism", "sdi"):
        assert LOSSES[name](Certain(), z, draw, scale, **OPTIONS[name]).abs().max() < FLOAT64


# -- a U-Net -----------------------------------------------------------------------------------------------------------

ASKED = ["a red torus, front view", "a red torus, overhead view", "a red torus, back view"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tiny.save(tmp_path_factory.mktemp("v"), prediction="v_prediction", latent=True), "cpu")


def make(model: Model, name: str, **settings: object) -> ScoreDistillation:
    prompt = Prompt.of(model, "a red torus", "cube", Views())
    loss = partial(LOSSES[name], **OPTIONS[name])
    return ScoreDistillation(model, prompt, loss, **{"guidance_scale": 7.0, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LOSSES)
def test_a_window_follows_the_formula(model: Model, name: str) -> None:
    guidance = make(model, name, weighting="sigma")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    draw = guidance.draw(3, 0, torch.Generator().manual_seed(1))
    random = torch.get_rng_state()
    z, grad = guidance.gradient(tiny.asked(images, draw), {})
    assert torch.equal(random, torch.get_rng_state())
    assert z.requires_grad and not grad.requires_grad
    unet = type(model.unet).from_config(model.unet.config).double().eval()
    unet.load_state_dict(model.unet.state_dict())
    abar = model.alphas_cumprod.double().tolist()
    for i, t in enumerate(draw.host_timesteps):

        @torch.no_grad()
        def eps(x: Tensor, t: int, prompt: str, asked: str = ASKED[i]) -> Tensor:
            words = {"told": asked, "negative": "cube", "empty": ""}[prompt]
            text = model.embed([words]).double()
            v = unet(x[None], torch.tensor([t]), encoder_hidden_states=text).sample[0]
            return abar[t] ** 0.5 * v + (1 - abar[t]) ** 0.5 * x

        one = BY_HAND[name](eps, abar, z[i].detach().double(), t, draw.noise[i].double(), 7.0)
        one = one * ((1 - abar[t]) / abar[t]) ** 0.5
        assert (grad[i] - one).abs().max() < FLOAT32 * one.abs().max()


@pytest.mark.parametrize("name", LOSSES)
def test_pictures_of_a_window_are_independent(model: Model, name: str) -> None:
    guidance = make(model, name)
    draws = [guidance.draw(1, 0, torch.Generator().manual_seed(i)) for i in range(3)]
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    _, together = guidance.gradient(tiny.asked(images, join(draws)), {})
    for i in range(3):
        one = slice(i, i + 1)
        single = tiny.asked(images[one], draws[i], tiny.ELEVATION[one], tiny.AZIMUTH[one])
        _, alone = guidance.gradient(single, {})
        assert torch.allclose(alone, together[one], atol=1e-5 * float(together.abs().max()))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_options_of_a_loss_are_the_fields_that_begin_with_its_name() -> None:
    for name in LOSSES:
        options = GuidanceConfig(loss=name).loss_options
        assert options.keys() == OPTIONS[name].keys()
        LOSSES[name](Curved(), *pictures(), **options)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "dsd"}, "system.guidance.loss must be one of sds, sjc, ism, sdi"),
        ({"ism_delta_t": 0}, "ism_delta_t must be a whole number >= 1"),
        ({"ism_delta_s": 0.5}, "ism_delta_s must be a whole number"),
        ({"sdi_inversion_steps": 0}, "sdi_inversion_steps must be a whole number >= 1"),
        ({"sdi_inversion_scale": float("nan")}, "sdi_inversion_scale must be a finite number"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as told:
        GuidanceConfig(**settings)  # type: ignore[arg-type]
    assert words in str(told.value) and "\n" not in str(told.value)
