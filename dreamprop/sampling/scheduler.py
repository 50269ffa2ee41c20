"""A diffusers scheduler as a pure function of (sample, prediction, step, history).

A scheduler keeps a counter and, where it is a multistep method, what earlier predictions came to. Which of its
attributes change is found by letting it take its steps once on a small tensor: what is no tensor is a function of the
step and is put back before each step; the tensors are its history, and travel in the state of the chain.

Legend: B pictures, C x H x W a latent; N steps, one for each call of the network; the level of a sample is the
cumulative alpha (abar) of the noise in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dreamprop.rng import generator

Skeleton = Any
"""An attribute with its tensors left out: `SLOT` stands where one goes."""
SLOT = "<tensor>"
PLAIN = (type(None), bool, int, float, str)


class PureScheduler:
    """Steps of a diffusers scheduler, none of which leaves a trace.

    Args:
        scheduler: as the pipeline has it; another is made of its config.
        num_inference_steps: as the pipeline takes it.
        eta: of DDIM (arXiv:2010.02502, eq. 16): 0 is deterministic, 1 is as noisy as DDPM.
        device: of the samples.

    Raises:
        ValueError: the scheduler does not take so many steps or this eta, or steps by more than what it is given.
    """

    def __init__(
        self,
        scheduler: Any,
        num_inference_steps: int,
        eta: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._name, config = type(scheduler).__name__, scheduler.config
        accepted = inspect.signature(scheduler.step).parameters
        most = int(config.num_train_timesteps)
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= most:
            raise ValueError(
                f"num_inference_steps must be an integer in [1, {most}], got {num_inference_steps!r}; use 50"
            )
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta}; use 0 for the deterministic sampler")
        if eta and "eta" not in accepted:
            raise ValueError(f"eta must be 0 with {self._name}, got {eta}; use DDIMScheduler, or drop it")
        self._options = {"eta": eta} if "eta" in accepted else {}
        self._draws = "generator" in accepted

        def fresh() -> Any:  # a scheduler that has been used may remember it
            made = type(scheduler).from_config(config)
            made.set_timesteps(num_inference_steps, device=device)
            return made

        self._scheduler = fresh()
        self.timesteps: Tensor = self._scheduler.timesteps
        """[N] of the calls of the network."""
        if float(self.timesteps.max()) > most - 1:
            raise ValueError(
                f"num_inference_steps must keep timesteps below {most}, got {num_inference_steps} which begin at "
                f"{float(self.timesteps.max()):g}; use timestep_spacing trailing, or a steps_offset of 0"
            )
        self.init_noise_sigma = self._scheduler.init_noise_sigma
        """What the standard normal noise of the start is multiplied by."""
        self.prediction_type: str = config.prediction_type
        """What the network predicts: `epsilon`, `v_prediction` or `sample`."""
        self._skeletons, ended = self._probe(self._scheduler, 0)
        """[N] by attribute that changes, before each step."""
        self.stochastic = self._draws and not torch.equal(ended, self._probe(fresh(), 1)[1])
        """Whether steps add noise."""
        self.variance_exploding = self._scaling(0) != 1
        """Whether samples are x_0 + sigma eps, as in arXiv:2206.00364, not sqrt(abar) x_0 + sqrt(1 - abar) eps."""
        self.levels = self._levels()
        """[N + 1] abar of the samples that enter steps 0 to N."""
        self.noise_scales = self._noise_scales()
        """[N + 1] standard deviation of the noise that DDPM's posterior (arXiv:2006.11239, eq. 7) would add to a sample
        on its way to the next level, in the units of the sample: the unit of errors."""

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def multistep(self) -> bool:
        """Whether a step needs what earlier ones left behind."""
        return any(SLOT in _leaves(skeleton) for before in self._skeletons for skeleton in before.values())

    def scale(self, sample: Tensor, step: int) -> Tensor:
        """What the network sees of a sample [B, C, H, W] that enters a step."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return sample
        self._put_back(step)
        scaled: Tensor = self._scheduler.scale_model_input(sample, self.timesteps[step])
        return scaled

    def step(
        self,
        sample: Tensor,
        prediction: Tensor,
        step: int,
        history: Mapping[str, Tensor],
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sample that enters the next step, and the history that goes with it.

        Args:
            sample, prediction: [B, C, H, W] what enters the step, and what the network says of it.
            step: from 0.
            history: of the sample, empty at the start.
            generators: [B] of each picture's noise in this step.
        """
        self._put_back(step, history)
        options = self._options | ({"generator": list(generators)} if self._draws else {})
        t = self.timesteps[step]
        found: Tensor = self._scheduler.step(prediction, t, sample, **options, return_dict=False)[0]
        if step + 1 == len(self):
            return found, {}
        left: dict[str, Tensor] = {}
        for name in self._skeletons[step + 1]:
            _take(getattr(self._scheduler, name), name, left)
        return found, left

    def transition(self, sample: Tensor, noise: Tensor, step: int, to: int) -> Tensor:
        """The deterministic transition of DDIM (arXiv:2010.02502, eq. 12) from the level of one step to a later one's.

            x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps,    x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)

        Args:
            sample, noise: [B, C, H, W] the sample that enters `step` and the noise predicted in it.
            step, to: from 0 to N.
        """
        now, then = self.levels[step], self.levels[to]
        if self.variance_exploding:
            return sample + noise * float(_sigma(then) - _sigma(now))
        image = (sample - float((1 - now).sqrt()) * noise) / float(now.sqrt())
        return float(then.sqrt()) * image + float((1 - then).sqrt()) * noise

    def _probe(self, scheduler: Any, seed: int) -> tuple[list[dict[str, Skeleton]], Tensor]:
        """Take all steps once on a small tensor, and see what changes in the scheduler, and where that tensor ends.

        Raises:
            ValueError: a step draws from the global generator, or leaves behind what is neither a number nor a tensor.
        """
        sample = torch.full((1, 1, 2, 2), 0.5, device=self.timesteps.device)
        seen: list[dict[str, Any]] = []
        options: dict[str, Any] = dict(self._options)
        untouched = torch.random.get_rng_state()
        for step, t in enumerate(self.timesteps):
            if self._draws:
                options["generator"] = generator(seed, step, "sampling/probe")
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, t)
            seen.append(_attributes(scheduler))
            sample = scheduler.step(sample, t, sample, **options, return_dict=False)[0]
        seen.append(_attributes(scheduler))
        if not torch.equal(untouched, torch.random.get_rng_state()):
            torch.random.set_rng_state(untouched)
            raise self._refusal("draws noise of its own")
        changing = {
            name
            for before, after in pairwise(seen)
            for name in before.keys() | after.keys()
            if name not in before or name not in after or not _same(before[name], after[name])
        }
        skeletons = [{name: _skeleton(found.get(name)) for name in sorted(changing)} for found in seen[:-1]]
        for before in skeletons:
            for name, skeleton in before.items():
                if not all(isinstance(leaf, PLAIN) for leaf in _leaves(skeleton)):
                    raise self._refusal(f"keeps {name}, which is neither a number nor a tensor")
        return skeletons, sample

    def _refusal(self, why: str) -> ValueError:
        return ValueError(
            f"scheduler must step by what it is given, got {self._name}, which {why}; use DDIMScheduler, "
            "DPMSolverMultistepScheduler or EulerDiscreteScheduler"
        )

    def _put_back(self, step: int, history: Mapping[str, Tensor] | None = None) -> None:
        """Leave the scheduler as it stands before a step; without a history, with empty tensors in its place."""
        for name, skeleton in self._skeletons[step].items():
            setattr(self._scheduler, name, _filled(skeleton, name, history))

    def _scaling(self, step: int) -> float:
        """What a sample that enters a step is multiplied by for the network to see it."""
        return float(self.scale(torch.ones(1, dtype=torch.double, device=self.timesteps.device), step))

    def _levels(self) -> Tensor:
        """[N + 1] abar by step: that of x_0 + sigma eps is 1 / (1 + sigma^2), the square of what scales it."""
        if self.variance_exploding:
            scalings = [self._scaling(step) ** 2 for step in range(len(self))]
            return torch.tensor([*scalings, 1 / (1 + float(self._scheduler.sigmas[-1]) ** 2)]).double()
        alphas = self._scheduler.alphas_cumprod.double().cpu()
        last = torch.as_tensor(getattr(self._scheduler, "final_alpha_cumprod", 1.0)).double().cpu().reshape(1)
        return torch.cat([alphas[self.timesteps.long().cpu()], last])

    def _noise_scales(self) -> list[float]:
        """[N + 1] by step, to the next lower level; where there is no noise left to add, as the step before."""
        scales: list[float] = []
        for step, level in enumerate(self.levels):
            later = [float(other) for other in self.levels[step + 1 :] if other > level]
            now, then = float(level), later[0] if later else 1.0
            variance = (1 - then) / (1 - now) * (1 - now / then) if now < 1 else 0.0
            unit = (1 / now) ** 0.5 if self.variance_exploding else 1.0
            scales.append(unit * variance**0.5 if variance > 0 or not scales else scales[-1])
        return scales


def _sigma(level: Tensor) -> Tensor:
    """sqrt((1 - abar) / abar)"""
    return ((1 - level) / level).sqrt()


def _attributes(scheduler: Any) -> dict[str, Any]:
    """The attributes of a scheduler; lists are copied, since some are written in place."""
    return {name: list(v) if isinstance(v, list) else v for name, v in vars(scheduler).items()}


def _same(a: Any, b: Any) -> bool:
    """Whether an attribute stayed as it was: the same tensor, or the same value."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, PLAIN) and isinstance(b, PLAIN):
        return type(a) is type(b) and a == b
    return a is b


def _skeleton(value: Any) -> Skeleton:
    """An attribute without its tensors."""
    if isinstance(value, list):
        return [_skeleton(v) for v in value]
    return SLOT if isinstance(value, Tensor) else value


def _leaves(skeleton: Skeleton) -> list[Any]:
    """What a skeleton consists of."""
    return [leaf for part in skeleton for leaf in _leaves(part)] if isinstance(skeleton, list) else [skeleton]


def _filled(skeleton: Skeleton, name: str, history: Mapping[str, Tensor] | None) -> Any:
    """An attribute with its tensors put in."""
    if isinstance(skeleton, list):
        return [_filled(part, f"{name}.{i}", history) for i, part in enumerate(skeleton)]
    if isinstance(skeleton, str) and skeleton == SLOT:
        # a copy: some schedulers add to it in place
        return torch.empty(0) if history is None else history[name].clone()
    return skeleton


def _take(value: Any, name: str, into: dict[str, Tensor]) -> None:
    """Collect the tensors of an attribute, under the names that `_filled` looks for."""
    if isinstance(value, list):
        for i, part in enumerate(value):
            _take(part, f"{name}.{i}", into)
    elif isinstance(value, Tensor):
        into[name] = value
