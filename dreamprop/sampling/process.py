"""Sampling as a chain: the state is the latents, the drift what the network predicts, the update a scheduler's step.

    z[t+1] = step(z[t], prediction(z[t]), noise(seed, t))

Legend: B pictures, C x H x W a latent; W states of a window; N = W B latents that the network sees in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self

import torch
from torch import Tensor

from dreamprop.guidance.denoiser import from_epsilon, to_epsilon
from dreamprop.process import Group, Process
from dreamprop.rng import generator, key
from dreamprop.sampling.pipeline import Prompted
from dreamprop.sampling.scheduler import PureScheduler
from dreamprop.state import Drift, State

PREDICTION = "prediction"
"""The moment that holds the last prediction: the best guess of the next."""


class Denoiser(Protocol):
    """What a network says of N samples, each with a timestep of its own."""

    def __call__(self, samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        """The prediction [N, C, H, W], of the kind that the scheduler expects.

        Args:
            samples: [N, C, H, W] as the scheduler scales them.
            timesteps: [N]
            pictures: [N] int64, which of the B pictures each is.
        """
        ...


class Denoising(Process):
    """The chain that a diffusers scheduler makes of a network.

    A guess goes on with the last prediction: `predict` is the scheduler's step with it, noise included. Errors are
    measured picture by picture in units of the noise that the step would add as DDPM (`PureScheduler.noise_scales`),
    as in arXiv:2305.16317, section 3.2.

    Args:
        denoise: the network, with its guidance.
        scheduler: the integrator.
        latents: [B, C, H, W] the noise that the chain begins from, in the scheduler's units.
        seed: of the noise that steps add; that of picture b in step t depends on (seed, b, t) alone. Or [B], one for
            each picture, which is then as it would be alone.
    """

    def __init__(
        self, denoise: Denoiser, scheduler: PureScheduler, latents: Tensor, seed: int | Sequence[int] = 0
    ) -> None:
        self.denoise, self.scheduler, self.latents = denoise, scheduler, latents
        self.names = tuple(f"latents.{i}" for i in range(len(latents)))
        pairs = (
            [(seed, i) for i in range(len(latents))] if isinstance(seed, int) else [(own, 0) for own in seed]
        )
        if len(pairs) != len(latents):
            raise ValueError(
                f"seed must be one or one for each of {len(latents)} pictures, got {len(pairs)}; give one"
            )
        self._seeds = [key(own, i, "sampling/picture") for own, i in pairs]

    @classmethod
    def of(cls, asked: Prompted, num_inference_steps: int, eta: float = 0.0) -> Self:
        """The chain of the pictures that a pipeline is asked for, with the pipeline's scheduler.

        Raises:
            ValueError: the scheduler does not take so many steps or this eta, or cannot be taken apart.
        """
        scheduler = PureScheduler(asked.pipe.scheduler, num_inference_steps, eta, asked.latents.device)
        return cls(asked, scheduler, asked.latents * scheduler.init_noise_sigma, asked.seeds)

    @property
    def num_steps(self) -> int:
        """Steps of the whole chain, one for each call of the network."""
        return len(self.scheduler)

    def init(self) -> State:
        """The noise."""
        return State(dict(zip(self.names, self.latents.unbind(), strict=True)), {}, {}, 0)

    def samples(self, state: State) -> Tensor:
        """The latents [B, C, H, W] of a state."""
        return torch.stack([state.params[name] for name in self.names])

    def drift(self, state: State) -> Drift:
        """The network's prediction."""
        return self.drift_window([state])[0]

    @torch.no_grad()
    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """The predictions of several states in one call of the network."""
        count, device = len(self.names), self.latents.device
        scaled = torch.cat([self.scheduler.scale(self.samples(z), z.step) for z in states])
        steps = torch.tensor([z.step for z in states], device=self.scheduler.timesteps.device)
        timesteps = self.scheduler.timesteps[steps].repeat_interleave(count).to(device)
        found = self.denoise(scaled, timesteps, torch.arange(count, device=device).repeat(len(states)))
        return [Drift(dict(zip(self.names, part.unbind(), strict=True))) for part in found.split(count)]

    @torch.no_grad()
    def update(self, state: State, drift: Drift) -> State:
        """The scheduler's step."""
        return self._step(state, torch.stack([drift.grads[name] for name in self.names]))

    @torch.no_grad()
    def predict(self, state: State) -> State:
        """The scheduler's step with the prediction of the step before; at the start, a copy."""
        known = state.moments.get(PREDICTION)
        return replace(state, step=state.step + 1) if known is None else self._step(state, known)

    @torch.no_grad()
    def jump(self, state: State, drift: Drift, step: int) -> State:
        """The state that enters a later step if the noise in the sample is what is predicted now: by one transition of
        DDIM; by the scheduler's own steps where it has a history, so that there is one to go on with.

        Args:
            state: where from.
            drift: the prediction at it.
            step: where to.
        """
        prediction, now = torch.stack([drift.grads[name] for name in self.names]), self.scheduler
        noise = to_epsilon(prediction, *self._noisy(state), now.prediction_type)
        if not now.multistep:
            found = now.transition(self.samples(state), noise, state.step, step)
            return self._state(found, {PREDICTION: prediction}, step)
        while state.step < step:
            state = self._step(state, from_epsilon(noise, *self._noisy(state), now.prediction_type))
        return state

    def correct(self, fine: State, coarse: State, old: State) -> State:
        """``fine + (coarse - old)``, of the history too: some schedulers keep the sample there that they go on from."""
        params = {n: y + (coarse.params[n] - old.params[n]) for n, y in fine.params.items()}
        moments = {n: y + (coarse.moments[n] - old.moments[n]) for n, y in fine.moments.items()}
        return replace(fine, params=params, moments=moments)

    def groups(self, step: int) -> Mapping[str, Group]:
        """Every picture by itself: the worst one counts."""
        unit = self.scheduler.noise_scales[step + 1]
        return {name: Group((name,), unit) for name in self.names}

    def _noisy(self, state: State) -> tuple[Tensor, Tensor]:
        """The samples [B, C, H, W] of a state as sqrt(abar) x_0 + sqrt(1 - abar) eps, and abar [1, 1, 1, 1]."""
        scaled = self.scheduler.scale(self.samples(state), state.step)
        return scaled, self.scheduler.levels[state.step].to(scaled).view(1, 1, 1, 1)

    def _step(self, state: State, prediction: Tensor) -> State:
        noise = [generator(seed, state.step, "sampling/noise") for seed in self._seeds]
        history = {name: value for name, value in state.moments.items() if name != PREDICTION}
        found, left = self.scheduler.step(self.samples(state), prediction, state.step, history, noise)
        return self._state(found, left | {PREDICTION: prediction}, state.step + 1)

    def _state(self, samples: Tensor, moments: dict[str, Tensor], step: int) -> State:
        return State(dict(zip(self.names, samples.unbind(), strict=True)), moments, {}, step)
