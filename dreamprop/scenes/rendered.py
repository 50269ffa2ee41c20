"""What every scene is asked for and what it shows: pictures before their background, and what an update needs to know
of them.

Legend: W states, B pictures a state, N = W B, H and V pixels down and across.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dreamprop.scenes.cameras import Cameras
from dreamprop.scenes.field import Tensors
from dreamprop.scenes.shading import Shading


@dataclass(frozen=True)
class PictureSpec:
    """Which N pictures of W states are to be made, those of a state together."""

    cameras: Cameras
    """The N cameras that see them."""
    height: int
    """H in pixels."""
    width: int
    """V in pixels."""
    shift: Tensor
    """[W, B H V] in [0, 1), what a step drew for its rays"""
    final: bool = False
    """Whether they are the pictures of a result, and not those of a drift."""
    shading: Shading | None = None
    """Lights; None: colours as they are."""
    orientation: bool = False
    """Whether to measure normals that face away."""


class Watched(Protocol):
    """A quantity on the way from parameters to pictures whose gradient the update needs too."""

    @property
    def value(self) -> Tensor:
        """The quantity, in the graph."""
        ...

    def told(self, grad: Tensor) -> Tensors:
        """What the update of each state is told, [W, ...] by name, given the gradient of all losses with respect to
        the value."""
        ...


@dataclass(frozen=True)
class Rendered:
    """N pictures of W states."""

    color: Tensor
    """[N, 3, H, V] before the background, premultiplied by the opacity"""
    opacity: Tensor
    """[N, 1, H, V] share of the light behind that does not come through, in [0, 1]."""
    depth: Tensor | None
    """[N, 1, H, V] mean distance times the opacity"""
    orientation: Tensor | None
    """[W] penalty of normals that face away (arXiv:2209.14988, section 3.2), a mean over rays that see something"""
    watched: Watched | None = None
    """What the update is told besides the gradients of the parameters; None: nothing."""

    def over(self, background: Tensor) -> Tensor:
        """The pictures before a background [N, 3, H or 1, V or 1]."""
        return self.color + (1 - self.opacity) * background
