"""ParaDiGMS (arXiv:2305.16317): a sliding window of denoising steps, solved by Picard iteration.

The published iteration sums displacements that were all taken at guesses (eq. 7),

    x'[i+1] = x[b] + sum_{b <= j <= i} (step(x[j]) - x[j]),

which at a window of one is not the sampler: x + (step(x) - x) rounds. Rolling the scheduler itself forward through the
predictions,

    x'[i+1] = step_i(x'[i]; prediction(x[i])),

is the sampler at a window of one, is exact in all that the scheduler does linearly, and takes its history along; so
does `dreamprop.solve` with the chain `Denoising`. `Displacements` is the published iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from dreamprop.evaluate import Evaluator
from dreamprop.sampling.pipeline import PipelineArguments, Prompted
from dreamprop.sampling.process import Denoiser, Denoising
from dreamprop.sampling.scheduler import PureScheduler
from dreamprop.solver.picard import solve
from dreamprop.solver.solution import Round
from dreamprop.state import Drift, State

TOLERANCE = 0.1
"""Root mean square error that is accepted, in units of the noise of a step: what arXiv:2305.16317 takes."""


class Displacements(Denoising):
    """The chain whose drift is the displacement of a step, noise included, and whose update adds it: eq. 7.

    Args:
        denoise, scheduler, latents, seed: as `Denoising` has them.

    Raises:
        ValueError: the scheduler is a multistep method, whose displacement depends on the steps before.
    """

    def __init__(
        self, denoise: Denoiser, scheduler: PureScheduler, latents: Tensor, seed: int | Sequence[int] = 0
    ) -> None:
        if scheduler.multistep:
            raise ValueError(
                "the published iteration needs a scheduler of single steps, got one with a history; use Denoising"
            )
        super().__init__(denoise, scheduler, latents, seed)

    @torch.no_grad()
    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """step(x) - x"""
        predicted = super().drift_window(states)
        stepped = [super(Displacements, self).update(*pair) for pair in zip(states, predicted, strict=True)]
        return [
            Drift({name: after.params[name] - before.params[name] for name in self.names})
            for before, after in zip(states, stepped, strict=True)
        ]

    @torch.no_grad()
    def update(self, state: State, drift: Drift) -> State:
        """x + d"""
        moved = {name: state.params[name] + drift.grads[name] for name in self.names}
        return State(moved, {}, {}, state.step + 1)

    def predict(self, state: State) -> State:
        """A copy, as published."""
        return State(state.params, {}, {}, state.step + 1)


def paradigms(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    num_inference_steps: int = 50,
    eta: float = 0.0,
    window: int | str = "auto",
    tolerance: float = TOLERANCE,
    predictor: str | None = None,
    evaluator: Evaluator | str | None = None,
    callback: Callable[[Round], None] | None = None,
    **asked: Unpack[PipelineArguments],
) -> Any:
    """Pictures by a pipeline's own scheduler, with the predictions of a window of steps made at the same time.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`, with any scheduler that steps by what it
            is given; it is left as it is.
        prompt, num_inference_steps, eta: as the pipeline has them. Noise that the scheduler adds is keyed by picture
            and step.
        window: steps that are predicted together; 1 is the pipeline's own sampler, bit for bit where the scheduler is
            deterministic; ``auto``: the quickest by the clock.
        tolerance: of a guess: root mean square error in units of the noise that DDPM would add in the step; the worst
            picture counts. 0: bit for bit the sampler's result.
        predictor: of guesses, as for `dreamprop.solve`: ``momentum`` goes on with the last prediction. By default
            ``restart`` where steps add no noise, else ``anderson``.
        evaluator: as for `dreamprop.solve`: ``serial``, ``batched``, ``distributed`` or a value.
        callback: called after every round.
        asked: the pipeline's other arguments as `Prompted` has them: negative_prompt, height, width, guidance_scale,
            num_images_per_prompt, generator, latents, output_type.

    Returns:
        The pipeline's own output, with ``.images``, and the solver's ``.stats`` beside them.

    Raises:
        ValueError: an argument is out of range; one line with value, rule and remedy.
    """
    pictures = Prompted(pipe, prompt, **asked)
    process = Denoising.of(pictures, num_inference_steps, eta)
    if predictor is None:
        predictor = "anderson" if process.scheduler.stochastic else "restart"
    solution = solve(
        process, process.num_steps, window, tolerance, predictor=predictor, evaluator=evaluator, audit=0.0,
        callback=callback,
    )  # fmt: skip
    return pictures.output(process.samples(solution.state), solution.stats)
