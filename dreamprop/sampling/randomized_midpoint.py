"""Randomised midpoints for diffusion models, sequential and parallel, arXiv:2406.00924.

The probability-flow ODE by steps with randomised midpoints (``midpoint_step.py``), and after each stretch of time of
length O(1) a corrector, underdamped Langevin dynamics at that noise level. Sequentially that takes O(d^(5/12)) scores
for a total variation that does not grow with d; with O(sqrt(d)) midpoints in steps of length O(1), swept O(log d)
times, O(log^2 d) parallel rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Unpack

from torch import Tensor

from dreamprop.evaluate import Evaluator
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.exponential import decreasing
from dreamprop.sampling.linear_sde import POSITION
from dreamprop.sampling.midpoint_step import randomized_midpoint_step
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU, eta_of
from dreamprop.sampling.picard_blocks import Block, solve_blocks
from dreamprop.sampling.picture_score import PictureScore
from dreamprop.sampling.pipeline import PipelineArguments, Prompted
from dreamprop.sampling.score_chain import Score, ScoreChain, Step
from dreamprop.solver.solution import Round


def midpoint_chain(
    score: Score,
    x: Tensor,
    times: Sequence[Sequence[float]],
    *,
    form: str = "ode",
    midpoints: int = 1,
    sweeps: int = 0,
    corrector: Corrector | None = None,
    seed: int = 0,
) -> tuple[ScoreChain, list[Block]]:
    """A reversed Ornstein-Uhlenbeck process by randomised midpoints, and the blocks in which it is parallel.

    Args:
        score: of the particles at their times.
        x: [n, ...] the particles at the first time.
        times: falling times between which steps go; at the end of each of the lists the corrector acts.
        form: ``ode``, as published, or ``sde``.
        midpoints: R of a step.
        sweeps: Picard sweeps of a step; 0 with one midpoint is the sequential method.
        corrector: underdamped Langevin dynamics.
        seed: of midpoints and noise.

    Returns:
        The chain, for ``solve_sequential`` and ``solve``; and its blocks, for ``solve_blocks``.

    Raises:
        ValueError: an argument is out of range.
    """
    sde = ReverseOU(eta_of(form))
    steps: list[Step] = []
    blocks: list[Block] = []
    for part in times:
        grid = decreasing(part)
        for t, later in pairwise(grid):
            more, cut = randomized_midpoint_step(
                sde, t, t - later, n=len(x), seed=seed, key=len(steps), midpoints=midpoints, sweeps=sweeps
            )
            steps, blocks = steps + more, blocks + cut
        if corrector is not None:
            more, cut = corrector.steps(grid[-1], len(x), seed, len(steps))
            steps, blocks = steps + more, blocks + cut
    return ScoreChain(score, steps, x, seed), blocks


def randomized_midpoint(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    num_inference_steps: int = 24,
    form: str = "ode",
    midpoints: int = 1,
    sweeps: int = 0,
    corrector: Corrector | None = None,
    blocks: int = 1,
    evaluator: Evaluator | str | None = None,
    callback: Callable[[Round], None] | None = None,
    **asked: Unpack[PipelineArguments],
) -> Any:
    """Pictures by randomised midpoints: sweeps + 2 rounds of the network a step.

    The grid is even in the model's timesteps.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`, for its network and its levels of noise; its
            scheduler's steps are not used.
        prompt: as the pipeline has it.
        num_inference_steps: steps, each with its midpoints; 24 sequential ones ask for 48 predictions.
        form: ``ode``, as published, or ``sde``.
        midpoints: of a step, predicted at the same time.
        sweeps: Picard sweeps of the midpoints of a step.
        corrector: underdamped Langevin dynamics behind each block; none by default.
        blocks: parts of the steps, behind each of which the corrector acts.
        evaluator: as for `dreamprop.solve`: ``serial``, ``batched``, ``distributed`` or a value.
        callback: called after every round.
        asked: the pipeline's other arguments as `Prompted` has them: negative_prompt, height, width, guidance_scale,
            num_images_per_prompt, generator, latents, output_type.

    Returns:
        The pipeline's own output, with ``.images``, and the solver's ``.stats`` beside them.

    Raises:
        ValueError: an argument is out of range; one line with value, rule and remedy.
    """
    if blocks < 1 or num_inference_steps % blocks:
        raise ValueError(
            f"blocks must divide num_inference_steps {num_inference_steps}, got {blocks}; use 1 without a corrector"
        )
    pictures = Prompted(pipe, prompt, **asked)
    score = PictureScore(pictures, len(pictures.latents))
    grid = score.times(blocks, num_inference_steps // blocks)
    chain, cut = midpoint_chain(
        score, pictures.latents, grid, form=form, midpoints=midpoints, sweeps=sweeps, corrector=corrector,
        seed=pictures.seed,
    )  # fmt: skip
    solution = solve_blocks(chain, cut, evaluator=evaluator, callback=callback)
    return pictures.output(solution.state.params[POSITION], solution.stats)
