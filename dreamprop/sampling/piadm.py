"""PIADM-SDE and PIADM-ODE: diffusion sampling in a poly-logarithmic number of parallel rounds, arXiv:2405.15986.

The time from noise to data is cut into blocks of length O(1), a block into points, and a block is solved by Picard
sweeps of the exponential integrator, all of its scores in one call. The error of k sweeps falls as (L h)^k / k!, so
O(log d) of them bring it below that of the grid, and O(log d) blocks take O(log^2 d) rounds.
The ODE form needs fewer points, O(sqrt(d)) for O(d), and after each block a corrector: underdamped Langevin dynamics at
the block's last noise level, by the same sweeps, which turns nearness in Wasserstein distance into nearness in total
variation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Unpack

from torch import Tensor

from dreamprop.evaluate import Evaluator
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.exponential import AffineStep, ddim, decreasing, exponential
from dreamprop.sampling.linear_sde import POSITION
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU, eta_of
from dreamprop.sampling.picard_blocks import Block, solve_blocks
from dreamprop.sampling.picture_score import PictureScore
from dreamprop.sampling.pipeline import PipelineArguments, Prompted
from dreamprop.sampling.score_chain import Score, ScoreChain, Step
from dreamprop.solver.solution import Round

HOLD: dict[str, Callable[[ReverseOU, float, float], AffineStep]] = {"score": exponential, "noise": ddim}
"""Integrators by what is constant over their steps."""


def block_times(start: float, end: float, blocks: int, points: int) -> list[list[float]]:
    """The grid of arXiv:2405.15986: blocks of equal length with even points, but for the last one, whose steps shrink
    in proportion to the time that is left; [blocks] of [points + 1] falling times.

    Args:
        start: T, the time of pure noise.
        end: where to stop, > 0, since the score grows as 1 / sqrt(t).
        blocks: O(log d) of them.
        points: steps of a block.

    Raises:
        ValueError: an argument is out of range.
    """
    for name, value in (("blocks", blocks), ("points", points)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}; use at least 1")
    length = start / blocks
    if not 0 < end < length:
        raise ValueError(f"end must lie in (0, {length}), the last block, got {end}; stop nearer to the data")
    even = [[start - length * (b + m / points) for m in range(points + 1)] for b in range(blocks - 1)]
    return [*even, [length * (end / length) ** (m / points) for m in range(points + 1)]]


def reverse_chain(
    score: Score,
    x: Tensor,
    times: Sequence[Sequence[float]],
    *,
    form: str = "sde",
    sweeps: int,
    corrector: Corrector | None = None,
    hold: str = "score",
    seed: int = 0,
) -> tuple[ScoreChain, list[Block]]:
    """A reversed Ornstein-Uhlenbeck process as a chain, and the blocks that make it PIADM.

    Args:
        score: of the particles at their times.
        x: [n, ...] the particles at the first time.
        times: falling times of each block; a block begins where the one before it ends.
        form: ``sde``, or ``ode`` for the probability flow.
        sweeps: Picard sweeps of a block.
        corrector: at the end of each block.
        hold: what is constant over a step: the ``score``, as published, or the predicted ``noise``, as DDIM has it.
        seed: of the noise.

    Returns:
        The chain, for ``solve_sequential`` and ``solve``; and its blocks, for ``solve_blocks``.

    Raises:
        ValueError: an argument is out of range.
    """
    sde = ReverseOU(eta_of(form))
    if hold not in HOLD:
        raise ValueError(f"hold must be one of {', '.join(HOLD)}, got {hold!r}; use score")
    steps: list[Step] = []
    blocks: list[Block] = []
    for block in times:
        grid = decreasing(block)
        steps += [HOLD[hold](sde, t, t - later) for t, later in pairwise(grid)]
        blocks.append(Block(len(grid) - 1, sweeps))
        if corrector is not None:
            more, cut = corrector.steps(grid[-1], len(x), seed, len(steps))
            steps, blocks = steps + more, blocks + cut
    return ScoreChain(score, steps, x, seed), blocks


def piadm(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    form: str = "ode",
    blocks: int = 8,
    points: int = 6,
    sweeps: int | None = None,
    corrector: Corrector | None = None,
    hold: str = "noise",
    evaluator: Evaluator | str | None = None,
    callback: Callable[[Round], None] | None = None,
    **asked: Unpack[PipelineArguments],
) -> Any:
    """Pictures by PIADM: blocks times sweeps rounds of the network, for blocks times points steps.

    The grid is even in the model's timesteps.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`, for its network and its levels of noise; its
            scheduler's steps are not used.
        prompt: as the pipeline has it.
        form: ``ode`` or ``sde``.
        blocks: solved one after another.
        points: steps of a block.
        sweeps: rounds of a block; as many as points make it the sequential sampler. By default 3, and for the SDE 4:
            its score weighs twice.
        corrector: underdamped Langevin dynamics behind each block; none by default.
        hold: what is constant over a step: the predicted ``noise``, as DDIM has it, or the ``score``, as published,
            which needs finer steps near the data.
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
    score = PictureScore(pictures, len(pictures.latents))
    grid = score.times(blocks, points)
    num_sweeps = {"sde": 4}.get(form, 3) if sweeps is None else sweeps
    chain, cut = reverse_chain(
        score,
        pictures.latents,
        grid,
        form=form,
        sweeps=num_sweeps,
        corrector=corrector,
        hold=hold,
        seed=pictures.seed,
    )
    solution = solve_blocks(chain, cut, evaluator=evaluator, callback=callback)
    return pictures.output(solution.state.params[POSITION], solution.stats)
