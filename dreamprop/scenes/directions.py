"""From which side a camera looks, in words (DreamFusion, arXiv:2209.14988, section 3.2); azimuth 0 is in front.

Legend: N cameras; angles in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = ("side", "front", "back", "overhead")
"""The words for what a camera sees, in the order of their numbers; where several hold, the last one does."""


@dataclass(frozen=True)
class Views:
    """Where a side ends: threestudio's thresholds, in degrees."""

    front_threshold: float = 45.0
    back_threshold: float = 45.0
    overhead_threshold: float = 60.0

    def direction(self, elevation: Tensor, azimuth: Tensor) -> Tensor:
        """The number [N] in DIRECTIONS of what cameras at elevations and azimuths [N] see."""
        turn = (azimuth + 180) % 360 - 180
        found = torch.zeros_like(turn, dtype=torch.long)
        found = found.masked_fill(turn.abs() < self.front_threshold, 1)
        found = found.masked_fill(turn.abs() > 180 - self.back_threshold, 2)
        return found.masked_fill(elevation > self.overhead_threshold, 3)

    def words(self, elevation: Tensor, azimuth: Tensor) -> list[str]:
        """The words for what cameras at elevations and azimuths [N] see."""
        return [DIRECTIONS[number] for number in self.direction(elevation, azimuth).tolist()]
