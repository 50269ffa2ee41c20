"""One run of a sampler: the pipeline that it asks, its rounds as they happen, and the pictures that come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamprop import prior
from dreamprop.distributed.communicator import Communicator
from dreamprop.errors import InputError
from dreamprop.prior import vocabulary
from dreamprop.runs import loop, window_log
from dreamprop.runs.experiment import Experiment
from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.progress import Progress
from dreamprop.runs.sampling.config import SamplingConfig
from dreamprop.runs.sampling.methods import METHODS, chosen, resolved
from dreamprop.sampling.loading import load_pipeline
from dreamprop.solver.solution import Round, Stats
from dreamprop.solver.window_choice import AUTO
from dreamprop.utils.device import device_of
from dreamprop.utils.peak_memory import Peak
from dreamprop.utils.signals import Guard


@dataclass(frozen=True, eq=False)
class Way:
    """A sampler with all that a config says to it."""

    sampler: Callable[..., Any]
    """The function."""
    arguments: dict[str, Any]
    """Its keywords, but for the generator and the callback."""
    label: str
    """What it is called where it shows how far it is."""
    evaluator: str
    """The name of its evaluator."""
    alone: bool
    """Whether the first of several processes takes it by itself."""
    chooses: bool = False
    """Whether the run chooses its windows, or follows those that another chose."""

    def resolved(self, name: str) -> Any:
        """The value of a keyword, with the sampler's own default; None where it takes no such thing."""
        return resolved(self.sampler, self.arguments, name)


@dataclass(frozen=True, eq=False)
class Sampled:
    """What a run came to."""

    images: Tensor
    """[B, 3, H, W] in [0, 1], in the memory of the host."""
    stats: Stats
    """What the sampler took."""
    log: RoundLog
    """Its rounds, which stand in `metrics.csv` too."""
    peak: Peak
    """The most memory that it has held, with the decoding of the pictures."""
    seed: int
    """Of its noise."""
    place: Path
    """Its folder."""


def accelerated(config: SamplingConfig, communicator: Communicator) -> Way:
    """The sampler that a config asks for.

    Raises:
        InputError: its evaluator would have every process do all the work, or there are no windows to follow.
    """
    name = config.system.sampler.method
    arguments = chosen(METHODS[name].sampler, config.given)
    way = Way(METHODS[name].sampler, arguments, name, "", alone=False)
    window, tolerance = way.resolved("window"), way.resolved("tolerance")
    exact = window == 1 or tolerance == 0
    parallel = config.parallel.checked
    evaluator = loop.asked_evaluator(parallel, communicator) or ("serial" if exact else "batched")
    if isinstance(window, str) and window != AUTO:
        window_log.check(window, communicator)
        arguments["window"] = window_log.open_windows(window, communicator)
    arguments["evaluator"] = loop.make_evaluator(evaluator, parallel)
    return Way(way.sampler, arguments, name, evaluator, alone=False, chooses=isinstance(window, str))


def sequential(config: SamplingConfig) -> Way:
    """What the sampler of a config is compared with."""
    sampler = METHODS[config.system.sampler.method].sequential
    given = config.given | dict.fromkeys(("window", "tolerance", "predictor"))
    arguments = chosen(sampler, given) | {"evaluator": loop.make_evaluator("serial", config.parallel.checked)}
    return Way(sampler, arguments, "sequential", "serial", alone=True)


def make_pipeline(experiment: Experiment) -> Any:
    """Load the model of a config.

    Raises:
        InputError: there is no such model, or the prompt has words that a shipped one does not know.
    """
    config = experiment.config
    guidance, said = config.system.guidance, config.system.prompt_processor
    path = guidance.pretrained_model_name_or_path
    if path in prior.MODELS:
        for words in filter(None, (said.prompt, said.negative_prompt)):
            vocabulary.check(words)
        path = prior.MODELS[path]
    dtype = torch.float16 if guidance.half_precision_weights else torch.float32
    return load_pipeline(path, device_of(config.device), dtype, config.system.sampler.scheduler)


def sample(
    pipe: Any,
    prompt: str,
    way: Way,
    seed: int,
    *,
    open_folder: Callable[[], Path],
    guard: Guard,
    lead: bool = True,
) -> Sampled | None:
    """Sample, and write `metrics.csv` round by round.

    Args:
        pipe: the pipeline.
        prompt: what the pictures show.
        way: the sampler.
        seed: of the noise that is begun from, as a generator of the CPU draws it, and of what is added.
        open_folder: makes the folder of the run; every process calls it after the first round, when nothing that was
            given can be refused any more.
        guard: open, it keeps signals from cutting what is written in two.
        lead: whether this is the process that writes.

    Returns:
        What came out, on the process that writes.

    Raises:
        InputError: the sampler refused an argument, or the disk what was written.
        Interrupted: a signal asked for the end.
        NonFiniteDrift, RankFailed, RankLost: as `dreamprop.solve` has it.
    """
    device = pipe.device
    peak = Peak(device)
    with ExitStack() as opened:
        followers: list[loop.Callback] = []
        log, place = None, Path()

        def after(round: Round) -> None:
            nonlocal log, place
            with guard.hold():
                if not round.round:
                    place = open_folder()
                    if lead:
                        log = opened.enter_context(RoundLog(place))
                        followers.append(log)
                        followers.append(opened.enter_context(Progress(way.label, 0, round.num_steps)))
                for follower in followers:
                    follower.on_round(round)

        with _refusing(pipe.unet), loop.notes(told=lead), peak:
            output = way.sampler(
                pipe, prompt, **way.arguments, generator=torch.Generator().manual_seed(seed),
                output_type="pt" if lead else "latent", callback=after,
            )  # fmt: skip
    if log is None:
        return None
    return Sampled(output.images.float().cpu(), output.stats, log, peak, seed, place)


def warm_up(pipe: Any, prompt: str, way: Way, seed: int) -> None:
    """Take the first two rounds, so that what happens only the first time is on nobody's clock; what the sampler
    refuses is told here.

    Raises:
        InputError: the sampler refused an argument.
    """

    class Enough(Exception):
        pass

    def after(round: Round) -> None:
        if round.round:
            raise Enough

    generator = torch.Generator().manual_seed(seed)
    try:
        with _refusing(pipe.unet):
            way.sampler(
                pipe, prompt, **way.arguments, generator=generator, output_type="latent", callback=after
            )
    except Enough:
        pass


@contextmanager
def _refusing(unet: torch.nn.Module) -> Iterator[None]:
    """A block in which a sampler is called: what it says before it asks the U-Net anything is about its arguments."""
    asked = False

    def note(*_: Any) -> None:
        nonlocal asked
        asked = True

    handle = unet.register_forward_pre_hook(note)
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        if asked:
            raise
        raise InputError(str(error)) from error
    finally:
        handle.remove()
