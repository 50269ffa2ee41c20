"""Steps of diffusers' schedulers that leave no trace."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from dreamprop.sampling.scheduler import PureScheduler

from .pipes import SCHEDULERS, network, scheduler

STEPS = 9


def generators(step: int) -> list[torch.Generator]:
    """Of two pictures."""
    return [torch.Generator().manual_seed(10 * step + picture) for picture in range(2)]


def look(samples: Tensor, t: Tensor) -> Tensor:
    return network(samples, t.expand(2), torch.arange(2))


def own_loop(of: Any, x: Tensor, **options: Any) -> list[Tensor]:
    """The scheduler's own loop, as pipelines write it."""
    of.set_timesteps(STEPS)
    found = [x * of.init_noise_sigma]
    for step, t in enumerate(of.timesteps):
        x = found[-1]
        noise = (
            {"generator": generators(step)} if "generator" in inspect.signature(of.step).parameters else {}
        )
        prediction = look(of.scale_model_input(x, t), t)
        found.append(of.step(prediction, t, x, **noise, **options, return_dict=False)[0])
    return found


def start() -> Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


NO_SAMPLE = ("EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler")
"""Those that take no predictions of the sample itself."""
KINDS = [
    (name, kind)
    for name in SCHEDULERS
    for kind in ("epsilon", "v_prediction", "sample")
    if not (kind == "sample" and name in NO_SAMPLE)
]


@pytest.mark.parametrize(("name", "prediction"), KINDS)
def test_steps_are_the_schedulers_own_whatever_was_stepped_before(name: str, prediction: str) -> None:
    theirs = scheduler(name, prediction_type=prediction)
    expected = own_loop(theirs, start())
    pure = PureScheduler(theirs, STEPS)
    assert len(pure) == len(expected) - 1 and torch.equal(pure.timesteps, theirs.timesteps)
    x, history = start() * pure.init_noise_sigma, {}
    for step, t in enumerate(pure.timesteps):
        pure.scale(x, len(pure) - 1 - step)
        seen = look(pure.scale(x, step), t)
        pure.step(0.5 * x, seen, step, history, generators(step))  # a guess's, thrown away
        x, history = pure.step(x, seen, step, history, generators(step))
        assert torch.equal(x, expected[step + 1])
    assert not history


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_eta_of_ddim(eta: float) -> None:
    expected = own_loop(scheduler("DDIMScheduler"), start(), eta=eta)
    pure, x = PureScheduler(scheduler("DDIMScheduler"), STEPS, eta), start()
    for step, t in enumerate(pure.timesteps):
        x, _ = pure.step(x, look(x, t), step, {}, generators(step))
    assert torch.equal(x, expected[-1])


@pytest.mark.parametrize("steps", [20, 1000])
def test_errors_are_measured_in_the_noise_of_a_step(steps: int) -> None:
    """Which diffusers works out for the published loop."""
    theirs = scheduler("DDIMParallelScheduler", steps_offset=0, set_alpha_to_one=False, clip_sample=False)
    pure = PureScheduler(theirs, steps)
    theirs.set_timesteps(steps)
    variances = torch.stack([theirs._get_variance(t) for t in theirs.timesteps]).double()
    units = torch.tensor(pure.noise_scales[:-1]).double()
    positive = variances > 0
    torch.testing.assert_close(units[positive], variances[positive].sqrt(), rtol=2e-3, atol=0)
    assert (units > 0).all()


def test_levels_are_those_of_the_samples() -> None:
    for name in (
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
    ):
        pure = PureScheduler(scheduler(name), STEPS)
        t = pure.timesteps.double()
        table = torch.as_tensor(scheduler(name).alphas_cumprod).double()
        below = t.floor().long()
        expected = table[below].lerp(table[(below + 1).clamp(max=999)], t - below)
        torch.testing.assert_close(pure.levels[:-1], expected, rtol=2e-2, atol=1e-6)
        assert pure.variance_exploding == (name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler"))


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_transition_over_one_step_is_the_step(name: str) -> None:
    pure = PureScheduler(scheduler(name), STEPS)
    x = start() * pure.init_noise_sigma
    for step in (0, 4, STEPS - 1):
        eps = look(pure.scale(x, step), pure.timesteps[step])
        stepped, _ = pure.step(x, eps, step, {}, generators(step))
        torch.testing.assert_close(pure.transition(x, eps, step, step + 1), stepped, rtol=1e-4, atol=1e-4)


def test_transitions_with_the_same_noise_make_one() -> None:
    pure, x, eps = PureScheduler(scheduler("DDIMScheduler"), STEPS), start().double(), start().double().cos()
    half = pure.transition(pure.transition(x, eps, 0, 3), eps, 3, 7)
    torch.testing.assert_close(half, pure.transition(x, eps, 0, 7))


class Restless(diffusers.DDIMScheduler):
    """A scheduler that draws from the global generator."""

    def step(self, *arguments: Any, **options: Any) -> Any:
        torch.randn(1)
        return super().step(*arguments, **options)


class Secretive(diffusers.DDIMScheduler):
    """A scheduler that keeps an object of its own."""

    def step(self, *arguments: Any, **options: Any) -> Any:
        self.tree = object()
        return super().step(*arguments, **options)


class Wanting(diffusers.DDIMScheduler):
    """A scheduler that is told of a mask as well."""

    def step(self, prediction: Tensor, t: Tensor, sample: Tensor, mask: Tensor, **options: Any) -> Any:
        return super().step(prediction, t, mask * sample, **options)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Restless, "draws noise of its own"),
        (Secretive, "keeps tree"),
        (diffusers.IPNDMScheduler, "has no alphas_cumprod"),
        (diffusers.FlowMatchEulerDiscreteScheduler, "has no alphas_cumprod"),
        (diffusers.RePaintScheduler, "has no prediction_type"),
        (Wanting, "wants more: .*mask"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(kind: type, why: str) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=f"got {kind.__name__}, which {why}.*; use DDIMScheduler"):
        PureScheduler(kind(), STEPS)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "steps", "eta", "line"),
    [
        ("DDIMScheduler", 0, 0.0, "num_inference_steps must be an integer in [1, 1000], got 0; use 50"),
        ("DDIMScheduler", 1001, 0.0, "num_inference_steps must be an integer in [1, 1000], got 1001; use 50"),
        ("DDIMScheduler", 2.5, 0.0, "num_inference_steps must be an integer in [1, 1000], got 2.5; use 50"),
        ("DDIMScheduler", 9, 1.5, "eta must lie in [0, 1], got 1.5; use 0 for the deterministic sampler"),
        ("DDPMScheduler", 9, 0.5, "eta must be 0 with DDPMScheduler, got 0.5; use DDIMScheduler, or drop it"),
        (
            "DDIMScheduler", 1000, 0.0,
            "num_inference_steps must keep timesteps below 1000, got 1000 which begin at 1000; "
            "use timestep_spacing trailing, or a steps_offset of 0",
        ),
    ],
)  # fmt: skip
def test_wrong_numbers_are_told_in_a_line(name: str, steps: Any, eta: float, line: str) -> None:
    with pytest.raises(ValueError) as told:
        PureScheduler(scheduler(name), steps, eta)
    assert str(told.value) == line
