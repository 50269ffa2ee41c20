"""The block of a config that describes a scene of 3D Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

from dreamprop.config.validate import number
from dreamprop.scenes.gaussians import spherical_harmonics

KEY = "system.geometry.gaussians"


@dataclass(frozen=True)
class GaussiansConfig:
    """Where 3D Gaussians begin, and how their number changes over a run; lengths are in units of the scene."""

    num_points: int = 1000
    """Gaussians at the start."""
    init_radius: float = 0.35
    """Radius of the ball in which they are spread at the start."""
    init_opacity: float = 0.1
    """Opacity of all Gaussians at the start, from 1e-4 to 0.99."""
    sh_degree: int = 0
    """Degree of the spherical harmonics of the colours; 0: the same colour from everywhere."""
    densification_interval: int = 30
    """Steps between two times at which Gaussians are cloned, split and pruned; 0: never."""
    densify_from: int = 30
    """The first step at which that may be."""
    densify_until: int = 120
    """The last step at which that may be."""
    densify_grad_threshold: float = 0.01
    """Gaussians are cloned or split whose middle a mean picture moves by more: the norm of its gradient on the picture,
    whose half side is 1, a mean over the pictures in which they were seen since the last time."""
    split_scale: float = 0.05
    """Of these, those whose largest standard deviation is above this are split, and the others cloned."""
    max_points: int = 4000
    """So many Gaussians there may be; those with the largest gradients are cloned or split first."""
    min_opacity: float = 0.01
    """Gaussians that are fainter are pruned."""
    max_scale: float = 0.4
    """Gaussians whose largest standard deviation is above this are pruned, but for those to be cloned or split."""
    max_screen: float = 0.5
    """Gaussians that reached farther on a picture than this share of its longer side are pruned, but for the same."""
    opacity_reset_interval: int = 0
    """Steps between two times at which all opacities are lowered to at most `opacity_reset`; 0: never."""
    opacity_reset: float = 0.02
    """What opacities above it are then lowered to, from 1e-4 to 0.99."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_points", 1, 1e7), ("max_points", 1, 1e7), ("densification_interval", 0, 1e9),
            ("densify_from", 0, 1e9), ("densify_until", 0, 1e9), ("opacity_reset_interval", 0, 1e9),
            ("sh_degree", 0, spherical_harmonics.MOST),
        ):  # fmt: skip
            number(f"{KEY}.{name}", getattr(self, name), low, high, whole=True, remedy="use the nearer end")
        for name in ("init_radius", "split_scale", "max_scale", "max_screen"):
            number(f"{KEY}.{name}", getattr(self, name), 1e-6, 1e6, remedy="use the nearer end")
        number(f"{KEY}.densify_grad_threshold", self.densify_grad_threshold, 0, 1e6, remedy="use 0.01")
        for name in ("init_opacity", "min_opacity", "opacity_reset"):
            number(f"{KEY}.{name}", getattr(self, name), 1e-4, 0.99, remedy="use 0.1")

    def densifies(self, step: int) -> bool:
        """Whether Gaussians are cloned, split and pruned on the way into a step."""
        every, first = self.densification_interval, max(self.densify_from, 1)
        return every > 0 and first <= step <= self.densify_until and (step - first) % every == 0

    def resets(self, step: int) -> bool:
        """Whether opacities are lowered on the way into a step."""
        every = self.opacity_reset_interval
        return every > 0 and step > 0 and step % every == 0

    def counted(self, step: int) -> bool:
        """Whether the drift of a step still counts for a time at which Gaussians are cloned or split."""
        return self.densification_interval > 0 and step < self.densify_until
