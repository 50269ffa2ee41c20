"""What threestudio refuses, told to the user in its own words."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dreamprop.config import InputError

T = TypeVar("T")


def told(do: Callable[[], T]) -> T:
    """Do something; what threestudio refuses in it becomes what the user is told."""
    with theirs():
        return do()


@contextmanager
def theirs(begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """What threestudio, or what it is built on, refuses is told in its own words, with status 2.

    Args:
        begun: whether a run is under way: an error then is no longer about what was given.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if begun():
            raise
        if logging.getLogger("pytorch_lightning").isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        words = traceback.format_exception_only(error)[-1]
        raise InputError(str(error) if _ours(error) else words) from error


def _ours(error: Exception) -> bool:
    """Whether an error is raised by our own code, and is a sentence already."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, ValueError) and name.startswith("dreamprop")
