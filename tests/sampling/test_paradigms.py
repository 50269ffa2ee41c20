"""Pictures by windows of denoising steps: against the pipeline's own loop, and against the published one."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.prior import MODELS
from dreamprop.rng import generator, key
from dreamprop.runs.artifacts.quality import psnr_db
from dreamprop.sampling import Denoising, PureScheduler, paradigms, srds
from dreamprop.sampling.paradigms import Displacements
from dreamprop.sampling.pipeline import Prompted
from dreamprop.state import equal

from .pipes import NOISY, SCHEDULERS, network, pipeline, scheduler, seeded, xl_pipeline

PROMPTS = ["a red torus", "a cube"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pipeline(tmp_path_factory.mktemp("model"))


def chain(name: str, steps: int = 12, kind: type[Denoising] = Denoising, eta: float = 0.0) -> Denoising:
    """Two pictures by a scheduler and what stands for a network."""
    pure = PureScheduler(scheduler(name), steps, eta)
    latents = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    return kind(network, pure, latents * pure.init_noise_sigma, seed=5)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in NOISY])
def test_a_window_of_one_is_the_pipelines_own_sampler(name: str, pipe: Any) -> None:
    pipe.scheduler = scheduler(name)
    told = {"num_inference_steps": 7, "negative_prompt": ["a torus"] * 2, "output_type": "latent"}
    expected = pipe(PROMPTS, generator=seeded(), **told).images
    plain = paradigms(pipe, PROMPTS, generator=seeded(), window=1, **told)
    assert isinstance(plain, diffusers.pipelines.stable_diffusion.StableDiffusionPipelineOutput)
    assert torch.equal(plain.images, expected)
    exact = paradigms(pipe, PROMPTS, generator=seeded(), window=4, tolerance=0, **told)
    assert torch.equal(exact.images, expected) and exact.stats.num_drifts > plain.stats.num_drifts


def test_stable_diffusion_xl(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With guidance and without it, one picture and several, and the pictures themselves."""
    xl = xl_pipeline(tmp_path_factory.mktemp("xl"))
    for name in ("DDIMScheduler", "EulerDiscreteScheduler"):
        xl.scheduler = scheduler(name)
        for scale, output_type in ((5.0, "latent"), (1.0, "latent"), (5.0, "np")):
            told = {
                "num_inference_steps": 5, "output_type": output_type, "guidance_scale": scale,
                "num_images_per_prompt": 2, "negative_prompt": ["a torus", "a"], "height": 32, "width": 16,
            }  # fmt: skip
            expected = xl(PROMPTS, generator=seeded(), **told)
            found = paradigms(xl, PROMPTS, generator=seeded(), window=1, **told)
            assert type(found) is type(expected) and len(found.images) == 4
            assert np.array_equal(np.asarray(found.images), np.asarray(expected.images))
        exact = srds(
            xl, "a cube", generator=seeded(), num_inference_steps=5, tolerance=0, output_type="latent"
        )
        plain = xl(
            "a cube", generator=seeded(), num_inference_steps=5, guidance_scale=7.5, output_type="latent"
        )
        assert torch.equal(exact.images, plain.images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_pipelines_too(
    dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    half = pipeline(tmp_path_factory.mktemp("half")).to(dtype)
    told = {"num_inference_steps": 5, "output_type": "latent"}
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"):
        half.scheduler = scheduler(name)
        expected = half(PROMPTS, generator=seeded(), **told).images
        found = paradigms(half, PROMPTS, generator=seeded(), window=1, **told).images
        assert found.dtype == dtype and torch.equal(found, expected)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_tolerance_0_is_the_sequential_run(name: str) -> None:
    process = chain(name)
    plain = dp.solve_sequential(process, process.num_steps)
    for predictor in ("momentum", "hold"):
        found = dp.solve(
            process, process.num_steps, 5, 0.0, predictor=predictor, evaluator=dp.evaluate.serial
        )
        assert equal(found.state, plain.state)
    assert dp.solve(process, process.num_steps, 5, 0.3).stats.num_rounds < process.num_steps


def test_what_the_pipeline_takes_means_the_same(pipe: Any) -> None:
    pipe.scheduler = scheduler("DDIMScheduler")
    latents = torch.randn(4, 4, 8, 8, generator=seeded(9))
    given: list[dict[str, Any]] = [
        {"prompt": "a red torus", "guidance_scale": 1.0, "generator": seeded()},
        {"prompt": PROMPTS, "negative_prompt": ["a", "red"], "num_images_per_prompt": 2, "latents": latents},
        {"prompt": PROMPTS, "generator": [seeded(1), seeded(2)], "height": 32, "width": 16},
    ]
    for arguments in given:
        states = [g.get_state() for g in _generators(arguments)]
        for output_type in ("np", "pil", "pt"):
            common = {"num_inference_steps": 3, "output_type": output_type}
            for g, state in zip(_generators(arguments), states, strict=True):
                g.set_state(state)
            expected = pipe(**arguments, **common).images
            for g, state in zip(_generators(arguments), states, strict=True):
                g.set_state(state)
            found = paradigms(pipe, **arguments, **common, window=1).images
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert np.array_equal(np.asarray(one), np.asarray(other))


def _generators(arguments: dict[str, Any]) -> list[torch.Generator]:
    found = arguments.get("generator", [])
    return found if isinstance(found, list) else [found]


def test_a_window_is_one_call_of_the_network(pipe: Any) -> None:
    pipe.scheduler = scheduler("DDIMScheduler")
    calls: list[int] = []
    watch = pipe.unet.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    found = paradigms(
        pipe, PROMPTS, generator=seeded(), num_inference_steps=8, window=4, output_type="latent"
    )
    watch.remove()
    assert len(calls) == found.stats.num_rounds
    assert sum(calls) == 2 * len(PROMPTS) * found.stats.num_drifts and max(calls) == 2 * len(PROMPTS) * 4


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_is_found_at_timesteps_between_those_of_the_training(kind: str, pipe: Any) -> None:
    pipe.scheduler = scheduler("DDIMScheduler", prediction_type=kind)
    asked = Prompted(pipe, PROMPTS, generator=seeded())
    alphas, which = pipe.scheduler.alphas_cumprod.double(), torch.arange(2)
    level = asked.level(torch.tensor([250.25, 999.0]))
    expected = (0.75 * alphas[250].log() + 0.25 * alphas[251].log()).exp()
    torch.testing.assert_close(level, torch.stack([expected, alphas[999]]))
    t = torch.tensor([250.25, 400.5])
    with torch.no_grad():
        raw, noise = asked(asked.latents, t, which), asked.noise(asked.latents, t, which)
    a, x = asked.level(t).float().view(2, 1, 1, 1), asked.latents
    shown = {
        "epsilon": lambda: noise,
        "v_prediction": lambda: a.sqrt() * noise - (1 - a).sqrt() * (x - (1 - a).sqrt() * noise) / a.sqrt(),
        "sample": lambda: (x - (1 - a).sqrt() * noise) / a.sqrt(),
    }[kind]()
    torch.testing.assert_close(shown, raw, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NOISY)
def test_noise_belongs_to_a_picture_and_a_step(name: str) -> None:
    """A picture is the same whoever is made beside it, in whatever order its steps are evaluated."""
    both = chain(name)
    alone = Denoising(network, both.scheduler, both.latents[:1], seed=5)
    pair, one = (dp.solve_sequential(process, process.num_steps) for process in (both, alone))
    assert torch.equal(pair.state.params["latents.0"], one.state.params["latents.0"])
    z = dp.solve_sequential(both, 3).state
    x = both.samples(z)
    drawn = [generator(key(5, i, "sampling/picture"), 3, "sampling/noise") for i in range(2)]
    expected, _ = both.scheduler.step(x, torch.zeros_like(x), 3, {}, drawn)
    found = both.update(z, dp.Drift({name: torch.zeros(4, 6, 6) for name in both.names}))
    assert torch.equal(both.samples(found), expected)


def test_a_picture_with_a_generator_of_its_own_is_the_same_in_any_company(pipe: Any) -> None:
    pipe.scheduler = scheduler("DDPMScheduler")
    told = {"num_inference_steps": 5, "output_type": "latent", "window": 1, "guidance_scale": 1.0}
    pair = paradigms(pipe, PROMPTS, generator=[seeded(1), seeded(2)], **told).images
    alone = paradigms(pipe, PROMPTS[1], generator=seeded(2), **told).images
    own = paradigms(pipe, PROMPTS[1], generator=[seeded(2)], **told).images
    assert torch.equal(alone, own) and not torch.equal(pair[0], pair[1])
    with pytest.raises(ValueError, match="seed must be one or one for each of 2 pictures, got 3; give one"):
        Denoising(network, PureScheduler(pipe.scheduler, 5), torch.zeros(2, 4, 6, 6), seed=[1, 2, 3])
    torch.testing.assert_close(pair[1], alone[0], rtol=1e-4, atol=1e-4)


def published(process: Displacements, window: int, tolerance: float) -> tuple[list[int], Tensor]:
    """The published loop, arXiv:2305.16317, algorithm 1, written out: strides, and what it ends with."""
    steps = process.num_steps
    trajectory = torch.stack([process.samples(process.init())] * (steps + 1))
    begin, end, strides = 0, min(window, steps), []
    units = torch.tensor(process.scheduler.noise_scales[:steps])
    while begin < steps:
        states = [dp.State(_named(process, trajectory[i]), {}, {}, i) for i in range(begin, end)]
        moved = torch.stack(
            [torch.stack([process.drift(z).grads[name] for name in process.names]) for z in states]
        )
        fresh = trajectory[begin] + moved.cumsum(0)
        off = (fresh - trajectory[begin + 1 : end + 1]).square().mean((2, 3, 4)).amax(1)  # [P]
        compared = [float(off[i]) / float(units[begin + i + 1]) ** 2 for i in range(end - begin - 1)]
        first_bad = next((i for i, e in enumerate(compared) if e > tolerance**2), end - begin - 1)
        strides.append(first_bad + 1)
        trajectory[begin + 1 : end + 1] = fresh
        begin += first_bad + 1
        trajectory[end:] = trajectory[end]
        end = min(begin + window, steps)
    return strides, trajectory[-1]


def _named(process: Denoising, samples: Tensor) -> dict[str, Tensor]:
    return dict(zip(process.names, samples.unbind(), strict=True))


@pytest.mark.parametrize(
    ("name", "eta"), [("DDIMScheduler", 0.0), ("DDIMScheduler", 1.0), ("DDPMScheduler", 0.0)]
)
def test_the_published_iteration_has_the_published_strides(name: str, eta: float) -> None:
    process = chain(name, 40, Displacements, eta)
    for window, tolerance in ((8, 0.1), (16, 0.03), (5, 1.0)):
        strides, last = published(process, window, tolerance)  # type: ignore[arg-type]
        found = dp.solve(process, 40, window, tolerance, predictor="hold", evaluator=dp.evaluate.serial)
        assert found.stats.strides == strides and len(set(strides)) > 1
        torch.testing.assert_close(process.samples(found.state), last, rtol=1e-4, atol=1e-4)


def test_the_published_iteration_is_the_pipeline_that_diffusers_has_deprecated(pipe: Any) -> None:
    from diffusers.pipelines.deprecated.stable_diffusion_variants.pipeline_stable_diffusion_paradigms import (
        StableDiffusionParadigmsPipeline,
    )

    ddim = scheduler("DDIMParallelScheduler", set_alpha_to_one=False, steps_offset=1, clip_sample=False)
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    theirs = StableDiffusionParadigmsPipeline(
        **parts, scheduler=ddim, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    strides: list[int] = []  # which it tells nobody but its bar
    theirs.progress_bar = lambda total: nullcontext(SimpleNamespace(update=strides.append))
    latents = torch.randn(1, 4, 8, 8, generator=seeded())
    told = {"num_inference_steps": 20, "latents": latents, "output_type": "latent"}
    expected = theirs(PROMPTS[0], parallel=6, tolerance=0.1, **told).images
    pipe.scheduler = scheduler("DDIMScheduler", set_alpha_to_one=False)
    process = Displacements.of(Prompted(pipe, PROMPTS[0], latents=latents), 20)
    process.scheduler._scheduler.final_alpha_cumprod = torch.tensor(
        1.0
    )  # as their last step has it, whatever is set
    found = dp.solve(process, 20, 6, 0.1, predictor="hold")
    assert found.stats.strides == strides and len(set(strides)) > 1
    torch.testing.assert_close(process.samples(found.state), expected, rtol=1e-4, atol=1e-4)


def test_the_published_iteration_refuses_a_history() -> None:
    with pytest.raises(ValueError, match="needs a scheduler of single steps"):
        chain("DPMSolverMultistepScheduler", kind=Displacements)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be an integer >= 1, got 0; use 1"),
        ({"guidance_scale": -1.0}, "guidance_scale must be >= 0 and finite, got -1.0; use 7.5"),
        (
            {"latents": torch.zeros(1, 4, 8, 9)},
            "latents must have the shape (1, 4, 8, 8), got (1, 4, 8, 9); give one for each picture",
        ),
        (
            {"negative_prompt": ["a torus"]},
            "negative_prompt must be a list where prompt is one, and a text where it is one, got list; give as many",
        ),
        ({"window": 0}, "window must be >= 1"),
        ({"tolerance": -0.1}, "tolerance must be >= 0, got -0.1"),
        ({"evaluator": "quick"}, "evaluator must be one of"),
        ({"output_type": "gif"}, "output_type must be one of pil, np, pt, latent, got 'gif'; use pil"),
    ],
)  # fmt: skip
def test_bad_arguments_are_told_in_a_line(arguments: dict[str, Any], line: str, pipe: Any) -> None:
    pipe.scheduler = scheduler("DDIMScheduler")
    with pytest.raises(ValueError) as told:
        paradigms(pipe, "a cube", num_inference_steps=2, **arguments)
    assert str(told.value).startswith(line) and "\n" not in str(told.value)


def test_another_kind_of_pipeline_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"pipe must be a StableDiffusionPipeline or .*, got object; give Denoising"
    ):
        paradigms(object(), "a cube")


def test_pictures_of_the_shipped_model_are_the_sequential_ones() -> None:
    """By what they show: far nearer to the pipeline's own than pictures of another noise are."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(MODELS["embedded"], dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    told = {"num_inference_steps": 50, "output_type": "pt"}
    for prompt in ("a red mug", "a blue house"):
        plain = pipe(prompt, generator=seeded(1), **told).images
        other = pipe(prompt, generator=seeded(2), **told).images
        found = paradigms(pipe, prompt, generator=seeded(1), window=8, **told)
        assert found.stats.num_rounds < 35
        assert psnr_db(found.images, plain) > 35 > psnr_db(other, plain) + 10
