"""SRDS (arXiv:2412.08292): the steps of a deterministic sampler in blocks, all of them under way at the same time.

The coarse step of Parareal is a transition of DDIM over a whole block, as if the noise predicted at its beginning were
right to its end. Sweep 0 is thus DDIM with as many steps as there are blocks, and each sweep moves the picture towards
that of all steps, which it reaches after as many sweeps as blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from dreamprop.evaluate import Evaluator
from dreamprop.sampling.parareal import parareal
from dreamprop.sampling.pipeline import PipelineArguments, Prompted
from dreamprop.sampling.process import Denoising
from dreamprop.solver.solution import Round

TOLERANCE = 0.1
"""Mean absolute difference of the latents between two sweeps below which the second one is the last. Latents have a
standard deviation of about 1, and the sweep that is kept is several times nearer to the sampler's picture than this."""


def srds(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    num_inference_steps: int = 50,
    blocks: int | None = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int | None = None,
    evaluator: Evaluator | str | None = None,
    callback: Callable[[Round], None] | None = None,
    **asked: Unpack[PipelineArguments],
) -> Any:
    """Pictures by a pipeline's own deterministic scheduler, with all blocks of its steps under way at the same time.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`, with a scheduler that adds no noise; it is
            left as it is.
        prompt, num_inference_steps: as the pipeline has them.
        blocks: of the steps; about the root of their number by default.
        tolerance: the first sweep whose latents differ from those of the sweep before by less, in the mean absolute
            difference of a picture, is the last; the worst picture counts. 0: the sampler's own picture, bit for bit.
        max_sweeps: where to stop in any case; as many as blocks by default.
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
    process = Denoising.of(pictures, num_inference_steps)
    if process.scheduler.stochastic:
        raise ValueError(
            f"scheduler must add no noise for srds, got {type(pipe.scheduler).__name__}; use DDIMScheduler, "
            "or paradigms"
        )
    if not process.scheduler.levels[0] > 0:
        raise ValueError(
            "scheduler must leave some of the picture in its first sample for srds, got rescale_betas_zero_snr; "
            "use paradigms"
        )
    solution = parareal(
        process, process.num_steps, blocks, tolerance=tolerance, max_sweeps=max_sweeps, evaluator=evaluator,
        callback=callback,
    )  # fmt: skip
    return pictures.output(process.samples(solution.state), solution.stats)
