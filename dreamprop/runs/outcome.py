"""What a comparison keeps of one of its runs, whoever made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dreamprop.runs.metrics import RoundLog
from dreamprop.state import State

RUNS = {"baseline": "sequential", "accelerated": "accelerated", "other_noise": "sequential, other noise"}
"""The runs of a comparison: the key in `report.json`, and the label on the page."""
VIEWS = 16
"""Views that two results are compared in, at most."""

Losses = Mapping[str, Sequence[tuple[int, float]]]
"""What was logged of a run: by name, steps and the values there."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One run of a comparison."""

    summary: dict[str, Any]
    """What its `summary.json` holds."""
    log: RoundLog
    """The rounds that it took."""
    state: State
    """The state that it arrived at."""
    views: Sequence[Tensor]
    """[N] pictures [3, H, W] of the result, in [0, 1] or 8 bits of it, in the same order for every run; may be none."""
    turntable: bytes
    """The result from all around, a GIF; empty without views."""
    sheet: bytes
    """Some views side by side, a PNG; empty without views."""
    losses: Losses = field(default_factory=dict)
    """The losses of the accepted steps, where they were logged."""


def occupied(state: State) -> dict[str, dict[str, int]]:
    """How many cells are set in each grid of flags: in each boolean buffer of a state, by name."""
    grids = {name: b for name, b in state.buffers.items() if b.dtype == torch.bool and b.numel() > 1}
    return {name: {"cells": int(grid.sum()), "of": grid.numel()} for name, grid in grids.items()}
