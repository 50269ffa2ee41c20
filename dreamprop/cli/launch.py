"""The command line: `python launch.py` and `dreamprop`.

Exit status: 0 done; 2 what the user gave is wrong (one line on standard error); 1 anything else, an interrupt by
Ctrl-C or SIGTERM among it, with the run saved.
"""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dreamprop.config.validate import nearest, shortened
from dreamprop.errors import InputError

VERBS = ("train", "sample", "compare", "export", "validate", "test")
FLAGS = (
    "--config", "--train", "--sample", "--compare", "--export", "--baseline", "--resume", "--device", "--gpu",
    "--threestudio", "--validate", "--test", "--verbose", "--version", "--help",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments, in argparse's words."""
        raise InputError(f"{message}; see python launch.py --help")


def parser() -> Parser:
    """Make the parser of the command line."""
    made = Parser(
        prog="launch.py",
        description="Text-to-3D by score distillation, solved in parallel over its optimiser steps.",
        epilog="example: python launch.py --config configs/dreamfusion.yaml --train "
        'system.prompt_processor.prompt="a red torus"',
        allow_abbrev=False,
    )
    made.add_argument(
        "--config", metavar="FILE", type=Path, help="a YAML file; configs/dreamfusion.yaml to begin with"
    )
    verb = made.add_mutually_exclusive_group()
    verb.add_argument("--train", action="store_true", help="make the object; writes outputs/<name>/<tag>/")
    verb.add_argument("--sample", action="store_true", help="draw pictures, by configs/sample.yaml")
    verb.add_argument("--compare", action="store_true", help="sequential and accelerated, with report.html")
    verb.add_argument("--export", action="store_true", help="write the mesh of the run given by --resume")
    verb.add_argument("--validate", action="store_true", help="of a threestudio system: its validation views")
    verb.add_argument("--test", action="store_true", help="of a threestudio system: its test views and video")
    made.add_argument(
        "--threestudio", metavar="DIR", type=Path, help="a checkout of threestudio, whose config this is"
    )
    made.add_argument("--baseline", action="store_true", help="with --train: step by step")
    made.add_argument(
        "--resume", metavar="DIR", type=Path, help="the folder of a run, or one of its checkpoints"
    )
    made.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1; the same as device=NAME")
    made.add_argument("--gpu", metavar="N", type=int, help="the same as --device cuda:N")
    made.add_argument("--verbose", action="store_true", help="warnings and tracebacks too")
    made.add_argument("--version", action="store_true", help="print the version")
    made.add_argument("overrides", nargs="*", metavar="key.key=value", help="values over those of the config")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in arguments
    try:
        status = run(arguments)
    except InputError as error:
        if verbose:
            traceback.print_exc()
        if _tells(error):
            print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted before the first step; nothing was lost", file=sys.stderr)
        status = 1
    except Exception:
        traceback.print_exc()
        status = 1
    return _leave(status)


def run(arguments: Sequence[str]) -> int:
    """Parse the arguments and do what they ask for.

    Raises:
        InputError: they are wrong.
    """
    given, unknown = parser().parse_known_args(arguments)
    for flag in unknown:
        if flag.startswith("-"):
            raise InputError(f"unknown flag {shortened(flag, 80)}; {nearest(flag.partition('=')[0], FLAGS)}")
        given.overrides.append(flag)
    if given.version:
        import dreamprop

        print(f"dreamprop {dreamprop.__version__}")
        return 0
    if not given.config:
        raise InputError("--config must name a YAML file, got none; use --config configs/dreamfusion.yaml")
    if not any(getattr(given, verb) for verb in VERBS):
        raise InputError(
            "one of --train, --sample, --compare and --export must be given, got none; use --train"
        )
    for verb in ("compare", "sample"):
        if getattr(given, verb) and given.resume:
            raise InputError(f"--{verb} starts afresh, got --resume; drop it")
    if given.baseline and not given.train:
        raise InputError("--baseline belongs to --train; --compare runs the baseline anyway")
    if given.gpu is not None and given.device:
        raise InputError("--gpu and --device must not both be given; drop one")
    if _threestudio(given):
        if given.sample:
            raise InputError(
                f"--sample is for configs like configs/sample.yaml, got {given.config}; use --train"
            )
        if not given.verbose:
            _hush()
        from dreamprop.cli.threestudio import launch

        return launch(given)
    if given.validate or given.test:
        raise InputError("--validate and --test are for threestudio's systems; add --threestudio DIR")
    if given.export and not given.resume:
        raise InputError("--export must know the run, got none; add --resume outputs/<name>/<tag>")
    overrides = list(given.overrides)
    if given.gpu is not None:
        overrides.append(f"device=cuda:{given.gpu}")
    if given.device:
        overrides.append(f"device={given.device}")
    if not given.verbose:
        _hush()
    # torch and diffusers take seconds to import: not before the arguments make sense.
    from dreamprop.distributed import coordination
    from dreamprop.runs import experiment as experiments
    from dreamprop.utils import cpu_threads
    from dreamprop.utils.deterministic import deterministic
    from dreamprop.utils.device import device_of

    experiment = experiments.load(given.config, overrides)
    draws = experiment.config.system_type == experiments.SAMPLING
    if given.sample and not draws:
        raise InputError(
            f"--sample must come with system_type {experiments.SAMPLING}, got {experiment.config.system_type}; "
            "use --train, or --config configs/sample.yaml"
        )
    if draws and not (given.sample or given.compare):
        verb = "--train" if given.train else "--export"
        raise InputError(f"{verb} is for objects, got system_type {experiments.SAMPLING}; use --sample")
    cpu_threads.use_all_cores()
    with deterministic(experiment.config.trainer.deterministic):
        if given.export:
            from dreamprop.cli.export import export

            return export(experiment, given.resume) if _rank() == 0 else 0
        communicator = coordination.init_communicator(
            experiment.config.device, experiment.config.parallel.timeout
        )
        on_cpu = device_of(experiment.config.device).type == "cpu"
        if on_cpu and communicator.rank == 0 and (note := cpu_threads.oversubscribed()):
            print(f"note: {note}", file=sys.stderr)
        if given.sample:
            from dreamprop.cli.sample import sample

            return sample(experiment, communicator)
        if given.compare and draws:
            from dreamprop.cli.compare_samples import compare_samples

            return compare_samples(experiment, communicator)
        if given.compare:
            from dreamprop.cli.compare import compare

            return compare(experiment, communicator)
        from dreamprop.cli.train import train

        return train(experiment, communicator, sequential=given.baseline, go_on=given.resume)


def _rank() -> int:
    """Which of the processes that `torchrun` started this is."""
    return int(os.environ.get("RANK", "0"))


def _tells(error: InputError) -> bool:
    """Whether this process prints what is wrong: one of those that know of it."""
    if _met():
        return _rank() == 0
    return error.own or os.environ.get("LOCAL_RANK", "0") == "0"


def _met() -> bool:
    """Whether this process has met others, without importing what that would take."""
    return bool(getattr(sys.modules.get("dreamprop.distributed.process_group"), "initialized", False))


def _leave(status: int) -> int:
    """Part from the other processes, without waiting for what they may still owe."""
    if _met():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # threads of the process group must not outlive the interpreter that they look at
    return status


def _threestudio(given: argparse.Namespace) -> bool:
    """Whether threestudio is to run a config: its checkout is given, or the config can only be one of its."""
    if given.threestudio or not os.path.isfile(given.config):
        return bool(given.threestudio)
    from dreamprop.config.loader import overrides, read

    return any("data_type" in layer.keys() for layer in (read(given.config), overrides(given.overrides)))  # noqa: SIM118


def _hush() -> None:
    """Keep the libraries' chatter away from the bar."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
