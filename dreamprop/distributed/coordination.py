"""What the processes of a run settle together: who does a thing alone, and what all of them must know."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from dreamprop.config.loader import InputError
from dreamprop.config.validate import brief, number
from dreamprop.distributed.communicator import Communicator
from dreamprop.distributed.process_group import TIMEOUT, is_single_process
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.errors import RankLost
from dreamprop.utils.device import device_of

T = TypeVar("T")


def init_communicator(device: str, timeout: float = TIMEOUT) -> Communicator:
    """Meet the other processes that `torchrun` started; by itself a process is a crew of one.

    Args:
        device: `auto`, `cpu` or `cuda`; each process takes its own.
        timeout: seconds that a process may be silent.

    Raises:
        InputError: the environment speaks of several processes but not of where they meet, or a device is wrong.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit()):
            raise InputError(
                f"{name} must be a whole number, got {brief(value)}; start with torchrun, or unset it"
            )
    if not is_single_process():
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            size = os.environ.get("WORLD_SIZE")
            raise InputError(
                f"WORLD_SIZE must come with {', '.join(missing)}, got {size} alone; start with torchrun"
            )
        number(
            "RANK",
            int(os.environ["RANK"]),
            0,
            int(os.environ["WORLD_SIZE"]) - 1,
            remedy="start with torchrun",
        )
        try:
            own = device_of(device)
        except InputError as error:
            raise InputError(f"rank {os.environ['RANK']}: {error}", own=True) from None
        try:
            init_process_group(own, timeout)
        except RankLost as lost:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise InputError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} processes must meet at {place}: {lost}; start all of them with "
                "torchrun, or unset WORLD_SIZE for one"
            ) from None
    return Communicator(timeout=timeout)


def run_on_all(communicator: Communicator, do: Callable[[], T]) -> T:
    """Do something on every rank; what the user is to be told about one of them, all of them raise.

    Raises:
        InputError: of the first rank that raised it, which it names unless it is the first of all.
    """
    done, refusal = None, None
    try:
        done = do()
    except InputError as error:
        refusal = str(error)
    for rank, line in enumerate(communicator.all_gather_object(refusal)):
        if line is not None:
            raise InputError(f"rank {rank}: {line}" if rank else line)
    return done  # type: ignore[return-value]


def run_on_main(communicator: Communicator, do: Callable[[], T]) -> T | None:
    """Do something on the first rank alone; what the user is to be told about it, all of them raise."""
    return run_on_all(communicator, lambda: do() if communicator.rank == 0 else None)


@contextmanager
def all_threads() -> Iterator[None]:
    """A block with the threads of all processes on this machine, which wait or are gone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def main_process_first(communicator: Communicator, name: str) -> Iterator[bool]:
    """A block for the first rank, with the threads of all that share its machine; the others wait behind it.

    Yields:
        Whether this is the first rank; the others should do nothing.

    Raises:
        InputError: the first rank refused what the user gave; every rank raises it.
        RankFailed: on the other ranks, the first one raised something else.
        RankLost: on the other ranks, the first one is gone.
    """
    if communicator.rank:
        yield False
        communicator.wait_for_main(name)
        return
    failure: BaseException | None = None
    try:
        with all_threads():
            yield True
    except BaseException as error:
        failure = error
        raise
    finally:
        communicator.wait_for_main(name, failure)
