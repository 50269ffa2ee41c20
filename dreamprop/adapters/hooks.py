"""Hooks of a loop that is wrapped: which of them copies keep, which are handed on, which are refused.

``copy.deepcopy`` keeps the hooks of a module, and drops those of its parameters and of the optimiser without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn

Hook = Callable[..., Any]


def refuse_step_hooks(optimizer: torch.optim.Optimizer) -> None:
    """Steps are taken on copies, and again whenever a guess was not good enough.

    Raises:
        ValueError: the optimiser has a hook before or after its step, which is there for what it does elsewhere.
    """
    for when in ("pre", "post"):
        for hook in getattr(optimizer, f"_optimizer_step_{when}_hooks", {}).values():
            raise ValueError(
                f"optimizer must have no step hooks, got {_name(hook)} by register_step_{when}_hook; change gradients "
                "by hooks of their parameters, and what is stepped in the step of a subclass"
            )


def hand_on(module: nn.Module, copied: nn.Module, held: Collection[str], memo: Mapping[int, Any]) -> None:
    """Give the copies of parameters the hooks that the parameters have.

    A method of a part of the module becomes that of the part's copy; other functions are called as they are.

    Args:
        module: the original.
        copied: its copy.
        held: names of the parameters that the optimiser moves.
        memo: of ``copy.deepcopy``: the copies by the ids of their originals.

    Raises:
        ValueError: a hook refers to such a parameter or to a part of the original that has some; they stay as they
            are while their copies move.
    """
    stale = {id(p) for name, p in module.named_parameters() if name in held}
    stale |= {id(m) for m in module.modules() if any(id(p) in stale for p in m.parameters())}
    copies = dict(copied.named_parameters())
    for name, parameter in module.named_parameters():
        if copies[name] is parameter or not parameter.requires_grad:
            continue
        # there is no public way to ask a tensor for its hooks
        for attribute, register in (
            ("_backward_hooks", copies[name].register_hook),
            ("_post_accumulate_grad_hooks", copies[name].register_post_accumulate_grad_hook),
        ):
            for hook in (getattr(parameter, attribute) or {}).values():
                if any(id(found) in stale for found in _referred(hook)):
                    raise ValueError(
                        f"hooks of parameters must not refer to the module or its parameters, got {_name(hook)} of "
                        f"{name!r}; take the parameter by register_post_accumulate_grad_hook, and others as buffers"
                    )
                register(_of_copy(hook, memo))


def _of_copy(hook: Hook, memo: Mapping[int, Any]) -> Hook:
    owner = getattr(hook, "__self__", None)
    return (
        MethodType(hook.__func__, memo[id(owner)])
        if isinstance(hook, MethodType) and id(owner) in memo
        else hook
    )


def _referred(hook: Hook) -> Iterator[Any]:
    """What a function refers to: arguments of a partial, defaults, its closure, and globals that its code names."""
    while isinstance(hook, functools.partial):
        yield from (*hook.args, *hook.keywords.values())
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
    yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)


def _name(hook: Hook) -> str:
    return getattr(hook, "__qualname__", None) or type(hook).__name__
