"""What threestudio, or what it is built on, refuses, as what the user is told: one line, with the key of the config."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamprop.config.loader import InputError

T = TypeVar("T")


@contextmanager
def theirs(studio: Any = None, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Make of what is raised inside an `InputError`, with status 2.

    Args:
        studio: the config, to name the key that is meant.
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
        raise InputError(words(error, studio)) from error


def told(do: Callable[[], T], studio: Any = None) -> T:
    """Do something; what threestudio refuses in it becomes what the user is told."""
    with theirs(studio):
        return do()


def words(error: Exception, studio: Any = None) -> str:
    """An error in a line: ours as it is, theirs by the key of the config that it is about, or in their words."""
    if _ours(error):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1:]
    said = f"{type(error).__name__}: {str(error) or (where[0].line if where else '')}"
    if isinstance(error, KeyError) and error.args:
        for key, value in _leaves(studio):
            if key.endswith("_type") and str(error.args[0]) in re.split("[:,]", str(value)):
                return f"{key} must be registered with threestudio, got {value!r}; correct it, or import its extension"
    unknown = re.search(r"Config\.__init__\(\) got an unexpected keyword argument '([^']+)'", str(error))
    if isinstance(error, TypeError) and unknown:
        keys = [key for key in _keys(studio) if key.rpartition(".")[2] == unknown[1]] or [unknown[1]]
        return f"{' or '.join(keys)} is not known to threestudio; drop it, or correct its name"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        keys = [key for key in _keys(studio) if f".{key}".endswith("." + str(error.full_key))]
        if keys:
            return f"{' or '.join(keys)}: {str(error).splitlines()[0]}; correct it"
    return said


def _ours(error: Exception) -> bool:
    """Whether an error is of our own code, and is a sentence already."""
    if type(error).__module__.startswith("dreamprop"):
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, ValueError) and name.startswith("dreamprop")


def _keys(tree: Any, above: str = "") -> Iterator[str]:
    """All keys of a config, with their paths."""
    if not isinstance(tree, DictConfig):
        return
    for name in tree:
        key = f"{above}.{name!s}" if above else str(name)
        yield key
        yield from _keys(tree._get_node(name), key)


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """All values of a config, with their paths."""
    for key in _keys(tree):
        value = OmegaConf.select(tree, key)
        if not isinstance(value, Container):
            yield key, value
