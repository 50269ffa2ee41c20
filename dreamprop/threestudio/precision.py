"""What the trainer's settings ask of a step: precision, accumulation, clipping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamprop.adapters.torch_optimizer import clip


@dataclass(frozen=True)
class Scaling:
    """The numbers of a gradient scaler; the defaults are PyTorch's."""

    init_scale: float = 65536.0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class StepSettings:
    """What a trainer's settings ask of every step."""

    accumulate: int = 1
    """How many batches one optimiser step accumulates."""
    clip: float = 0.0
    """The largest norm, or value, that gradients may have; 0: any."""
    clip_by: str = "norm"
    """Whether gradients are clipped by their ``norm`` or by ``value``."""
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Makes the context that a training step runs in: autocast, where the precision asks for it."""
    convert: Callable[[Any], Any] = _as_it_is
    """Casts a batch as the precision asks for."""
    scaling: Scaling | None = None
    """The gradient scaler that fp16 needs; ``None``: the loss is not scaled."""

    @property
    def by_norm(self) -> bool:
        """Whether a step needs the norm of all gradients together."""
        return self.clip > 0 and self.clip_by != "value"

    def clipper(self, norm: Tensor | None) -> Callable[[Sequence[Tensor]], None] | None:
        """Clips gradients in place, by their norm over all parameters together where the settings ask for that."""
        if self.clip <= 0:
            return None
        if norm is not None:
            return clip(self.clip, norm)
        return lambda parameters: torch.nn.utils.clip_grad_value_(parameters, clip_value=self.clip)


def step_settings(trainer: Any) -> StepSettings:
    """What a Lightning trainer's settings ask of every step.

    Raises:
        ValueError: it asks for what cannot be kept.
    """
    plugin = trainer.precision_plugin
    scaler = getattr(plugin, "scaler", None)
    scaling = None
    if scaler is not None and scaler.is_enabled():
        scaling = Scaling(
            float(scaler.get_scale()),
            scaler.get_growth_factor(),
            scaler.get_backoff_factor(),
            scaler.get_growth_interval(),
        )
    algorithm = trainer.gradient_clip_algorithm
    return StepSettings(
        accumulate=int(trainer.accumulate_grad_batches),
        clip=float(trainer.gradient_clip_val or 0.0),
        clip_by=str(getattr(algorithm, "value", algorithm) or "norm"),
        context=plugin.train_step_context,
        convert=plugin.convert_input,
        scaling=scaling,
    )


SCALE, GROWTH = "scaler.scale", "scaler.growth"
"""Buffers of the gradient scaler: the scale, and the steps since it last changed."""


def scaler_state(scaling: Scaling | None) -> dict[str, Tensor]:
    """The scaler's buffers before the first step."""
    if scaling is None:
        return {}
    return {SCALE: torch.tensor(scaling.init_scale), GROWTH: torch.tensor(0, dtype=torch.int32)}


def rescale(buffers: dict[str, Tensor], scaling: Scaling | None, overflow: bool) -> dict[str, Tensor]:
    """The scaler's buffers after a step, as ``torch.amp.GradScaler.update`` has them.

    The scale is halved by a step that overflowed, which is not taken, and doubled by many in a row that did not.
    """
    if scaling is None:
        return {}
    scale, growth = buffers[SCALE], buffers[GROWTH]
    if overflow:
        return {SCALE: scale * scaling.backoff_factor, GROWTH: torch.zeros_like(growth)}
    if int(growth) + 1 < scaling.growth_interval:
        return {SCALE: scale, GROWTH: growth + 1}
    grown = scale * scaling.growth_factor
    return {SCALE: grown if bool(grown.isfinite()) else scale, GROWTH: torch.zeros_like(growth)}
