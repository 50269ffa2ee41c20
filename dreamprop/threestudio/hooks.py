"""Lightning's hooks that a system brings: which are called where a step is evaluated, and which cannot be.

Called, in Lightning's order, are those around the batch, the loss and its gradients. What acts on the optimiser's
step itself cannot be: that step is taken later and elsewhere, on copies of what was accepted, where there is no
system to call. Such a hook is refused by its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from dreamprop.threestudio.errors import NotAChain

ELSEWHERE = {
    "optimizer_step": "give a warm-up or any other schedule as the lr_scheduler of configure_optimizers, interval step",
    "optimizer_zero_grad": "leave it out: gradients are dropped before each step",
    "on_before_zero_grad": "use on_after_backward or on_train_batch_end",
    "configure_gradient_clipping": "use trainer.gradient_clip_val and trainer.gradient_clip_algorithm",
    "lr_scheduler_step": "leave it out: the scheduler is stepped once after each step",
}
"""Hooks of the optimiser's step, and what to do instead."""

STEP = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip
"""Hooks of a callback that Lightning calls in every step."""

HARMLESS = ("Checkpoint", "ProgressBar", "LearningRateMonitor")
"""Callbacks of Lightning's whose work in a step is done here: files at their interval, the bar, learning rates."""


def owner(thing: Any, hook: str) -> type | None:
    """The class that a hook comes from; ``None`` where it is Lightning's, or there is none."""
    if hook in vars(thing):
        return type(thing)
    found = next((kind for kind in type(thing).__mro__ if hook in vars(kind)), None)
    if found is None or found.__module__.partition(".")[0] in ("lightning", "pytorch_lightning", "torch"):
        return None
    return found


def check(system: Any, callbacks: Iterable[Any] = ()) -> None:
    """See that no hook would be passed over.

    Raises:
        NotAChain: one would be; the line names it and its class.
    """
    for hook, remedy in ELSEWHERE.items():
        kind = owner(system, hook)
        if kind is not None:
            raise NotAChain(
                f"{hook} must be Lightning's own, got {kind.__name__}.{hook}: the optimiser's step is taken on copies, "
                f"where no hook is called; {remedy}, or run it in threestudio"
            )
    if "dataloader_iter" in inspect.signature(system.training_step).parameters:
        raise NotAChain(
            "training_step must be given a batch, got one that takes dataloader_iter: batches are drawn in any order; "
            "take the batch, or run it in threestudio"
        )
    for callback in callbacks:
        names = [kind.__name__ for kind in type(callback).__mro__]
        if any(name in HARMLESS for name in names):
            continue
        for hook in STEP:
            base = next((kind for kind in type(callback).__mro__ if kind.__name__ == "Callback"), object)
            if getattr(type(callback), hook, None) is not getattr(base, hook, None) or hook in vars(callback):
                raise NotAChain(
                    f"callbacks must leave the steps alone, got {names[0]}.{hook}, which is not called in each of "
                    "them; drop the callback, or run it in threestudio"
                )


def call(thing: Any, hook: str, *args: Any) -> Any:
    """Call a hook of a thing where it has one; else return ``None``."""
    found = getattr(thing, hook, None)
    return found(*args) if callable(found) else None


def takes_index(training_step: Callable[..., Any]) -> bool:
    """Whether Lightning would give a training step the index of the batch, too."""
    spec = inspect.getfullargspec(inspect.unwrap(training_step))
    names = spec.args[1:]
    return "batch_idx" in names or spec.varargs is not None or len(names) >= 2
