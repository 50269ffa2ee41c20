"""How far the rolled-out states are from the guesses that their drifts were evaluated at."""

from __future__ import annotations

import torch

from dreamprop.state import Drift


def nonfinite(drift: Drift) -> str | None:
    """The first parameter whose gradient holds a NaN or an Inf; waits for the device once."""
    named = [(name, g) for name, g in drift.grads.items() if g.numel()]
    if not named:
        return None
    largest = torch._foreach_norm([g for _, g in named], ord=float("inf"))
    finite = torch.stack([t.to(largest[0].device, torch.float32) for t in largest]).isfinite().tolist()
    return next((name for (name, _), ok in zip(named, finite, strict=True) if not ok), None)
