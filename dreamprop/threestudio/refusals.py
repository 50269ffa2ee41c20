"""What threestudio, or what it is built on, refuses, as what the user is told: one line, with the key of the config."""

from __future__ import annotations

import dis
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import yaml
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamprop.config.loader import InputError
from dreamprop.errors import NonFiniteDrift, RankFailed, RankLost
from dreamprop.threestudio.errors import NotAChain

T = TypeVar("T")

OURS = __name__.partition(".")[0]
NEUTRAL = {"torch", "numpy", "omegaconf", "yaml", *sys.stdlib_module_names}
"""Packages whose errors are about what they were called with, by whomever."""
RAISE = dis.opmap["RAISE_VARARGS"]
"""What the statement `raise` is to the interpreter."""


@contextmanager
def theirs(studio: Any = None, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Make of what is raised inside about what the user gave an `InputError`, with status 2.

    A defect of ours stays what it is, and so does what ends a run: see ``refused``.

    Args:
        studio: the config, to name the key that is meant.
        begun: whether a run is under way: an error then is no longer about what was given.
    """
    try:
        yield
    except Exception as error:
        if begun() or isinstance(error, InputError) or not refused(error):
            raise
        if logging.getLogger("pytorch_lightning").isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        raise InputError(words(error, studio)) from error


def told(do: Callable[[], T], studio: Any = None) -> T:
    """Do something; what threestudio refuses in it becomes what the user is told."""
    with theirs(studio):
        return do()


def refused(error: Exception) -> bool:
    """Whether an error is about what the user gave, and not a defect of ours.

    Those are sentences that we raise, what the file system says of a path, what is wrong with a config as such, and
    what is raised nearer to threestudio's code, an extension's or a library's that they chose than to ours. PyTorch,
    NumPy, OmegaConf and Python's own library work for whoever calls them.
    """
    if isinstance(error, NonFiniteDrift | RankFailed | RankLost | MemoryError):
        return False
    if _ours(error) or isinstance(error, OmegaConfBaseException | yaml.YAMLError):
        return True
    if isinstance(error, OSError):
        return error.filename is not None
    if isinstance(error, ImportError):  # of what a checkout lacks
        return (error.name or "").partition(".")[0] != OURS
    callers = [module.partition(".")[0] for module, _ in _frames(error)]
    callers = [package for package in callers if package not in NEUTRAL]
    return bool(callers) and callers[-1] != OURS


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
    """Whether an error is a sentence of ours: one of our errors, or a `ValueError` by a `raise` in our code.

    One that a function of Python's raised while it worked for us, such as ``int("x")``, is none.
    """
    if isinstance(error, InputError | NotAChain):
        return True
    *_, (module, raised) = [("", False), *_frames(error)]
    return isinstance(error, ValueError) and raised and module.partition(".")[0] == OURS


def _frames(error: Exception) -> Iterator[tuple[str, bool]]:
    """The modules that an error has passed, the one where it was raised last, and whether they stood at a `raise`."""
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code.co_code
        yield trace.tb_frame.f_globals.get("__name__", ""), code[trace.tb_lasti] == RAISE
        trace = trace.tb_next


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
