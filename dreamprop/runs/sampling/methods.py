"""The ways of sampling by the names that a config gives them, and what each takes of it.

A way is a function of `dreamprop.sampling`: of a pipeline, a prompt and keywords that are named as the keys of a
config are. What a key without a value comes to is the function's own default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any

from dreamprop.sampling.paradigms import paradigms
from dreamprop.sampling.piadm import piadm
from dreamprop.sampling.pipeline import Prompted
from dreamprop.sampling.randomized_midpoint import randomized_midpoint
from dreamprop.sampling.srds import srds

STEP_BY_STEP = partial(paradigms, window=1)
"""The pipeline's scheduler, as it is."""


@dataclass(frozen=True)
class Method:
    """A way of sampling."""

    sampler: Callable[..., Any]
    """`sampler(pipe, prompt, ..., evaluator=, callback=)`: the pipeline's own output, with `.stats` beside it."""
    unit: str
    """Of the errors that it is told by."""
    sequential: Callable[..., Any] = STEP_BY_STEP
    """What it is compared with, called in the same way: by default the pipeline's scheduler, step by step."""
    contiguous: bool = True
    """Whether the steps that a round evaluates are those that follow the accepted one."""


def taken(sampler: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The keywords that a sampler takes, by name: its own, and those of the pipeline that it hands on."""
    own = signature(sampler).parameters
    hands_on = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in own.values())
    return {**signature(Prompted).parameters, **own} if hands_on else own


@wraps(piadm)
def piadm_step_by_step(pipe: Any, prompt: str, **arguments: Any) -> Any:
    """The steps of PIADM's grid one after another: a block of one point for each."""
    blocks, points = (arguments.pop(name, taken(piadm)[name].default) for name in ("blocks", "points"))
    return piadm(pipe, prompt, **arguments | {"blocks": blocks * points, "points": 1, "sweeps": 1})


@wraps(randomized_midpoint)
def one_midpoint(pipe: Any, prompt: str, **arguments: Any) -> Any:
    """As many steps by the sequential form of the method: one midpoint each, as the first guess has it."""
    return randomized_midpoint(pipe, prompt, **arguments | {"midpoints": 1, "sweeps": 0})


METHODS = {
    "paradigms": Method(paradigms, "noise of a step, root mean square"),
    "srds": Method(srds, "mean absolute difference of two sweeps", contiguous=False),
    "piadm": Method(piadm, "none: sweeps are counted", piadm_step_by_step),
    "randomized-midpoint": Method(randomized_midpoint, "none: sweeps are counted", one_midpoint),
}
"""The methods by `system.sampler.method`."""


def chosen(sampler: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampler is called with: what it takes of the values that were given.

    Args:
        sampler: a function.
        given: values by keyword, None where there is none.
    """
    return {name: value for name, value in given.items() if value is not None and name in taken(sampler)}


def resolved(sampler: Callable[..., Any], given: Mapping[str, Any], name: str) -> Any:
    """The value of a keyword: what was given, or the sampler's default; None where it takes no such thing."""
    found = taken(sampler).get(name)
    return given.get(name, found.default) if found is not None else None
