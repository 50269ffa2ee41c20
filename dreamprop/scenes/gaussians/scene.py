"""A scene of 3D Gaussians (arXiv:2308.04079), as DreamGaussian distils it (arXiv:2309.16653).

Legend: W states, B pictures a state, N Gaussians, K coefficients of a colour, P points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.rng import generator as step_generator
from dreamprop.scenes.field import Tensors
from dreamprop.scenes.gaussians import density, density_control, spherical_harmonics
from dreamprop.scenes.gaussians.camera_matrices import matrices
from dreamprop.scenes.gaussians.columns import columns
from dreamprop.scenes.gaussians.config import GaussiansConfig
from dreamprop.scenes.gaussians.density_control import ScreenSpace
from dreamprop.scenes.gaussians.names import (
    FEATURES_DC,
    FEATURES_REST,
    GRADIENT,
    NAMES,
    OPACITY,
    RADIUS,
    ROTATION,
    SCALING,
    SEEN,
    XYZ,
)
from dreamprop.scenes.gaussians.splats import Splats
from dreamprop.scenes.gaussians.with_gsplat import choose
from dreamprop.scenes.rendered import PictureSpec, Rendered

COST = 64
"""Pairs of a Gaussian and a pixel that a pixel costs, about."""
NEIGHBOURS = 3
"""A Gaussian is as large at the start as the mean distance to so many others."""


@dataclass(frozen=True)
class Gaussians:
    """3D Gaussians around the origin: parameters as `names` has them, each [N, ...]."""

    config: GaussiansConfig = field(default_factory=GaussiansConfig)
    radius: float = 1.0
    """Radius of the ball that a mesh is looked for in."""
    unread: Collection[str] = (GRADIENT, SEEN, RADIUS)
    """Counts say what becomes of Gaussians when their number changes, and nothing before."""
    known_sizes: bool = False
    """How many Gaussians there are is decided by the run."""
    num_particles: int = 1
    """It is one."""

    def boundaries(self, max_steps: int) -> frozenset[int]:
        """The steps at which Gaussians are cloned, split and pruned, or their opacities lowered."""
        config = self.config
        return frozenset(t for t in range(1, max_steps) if config.densifies(t) or config.resets(t))

    def init(self, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Gaussians spread evenly in a ball, nearly grey, each as wide as its neighbours are far."""
        config, count = self.config, self.config.num_points
        towards = F.normalize(torch.randn(count, 3, generator=generator), dim=1)
        places = config.init_radius * towards * torch.rand(count, 1, generator=generator) ** (1 / 3)
        wide = _distance(places).clamp(min=1e-4)
        params = {
            XYZ: places,
            FEATURES_DC: 0.01 * torch.randn(count, 1, 3, generator=generator) / spherical_harmonics.C0,
            OPACITY: torch.full((count, 1), config.init_opacity).logit(),
            SCALING: wide.log()[:, None].repeat(1, 3),
            ROTATION: torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        }
        if more := (config.sh_degree + 1) ** 2 - 1:
            params[FEATURES_REST] = torch.zeros(count, more, 3)
        ordered = {name: params[name] for name in NAMES if name in params}
        return ordered, density_control.counters(count, places)

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Every parameter by itself."""
        return {name: (name,) for name in NAMES if name != FEATURES_REST or self.config.sh_degree}

    def cost(self, final: bool) -> int:
        """About so many pairs of a Gaussian and a pixel."""
        return COST

    def render(self, params: Tensors, buffers: Tensors, spec: PictureSpec) -> Rendered:
        """The pictures of W states by splatting; there are no normals, so neither light nor a penalty on them."""
        if spec.shading is not None or spec.orientation:
            raise ValueError(
                "Gaussians must be seen without light, got shading or a penalty on normals; drop it"
            )
        splats = Splats(
            params[XYZ],
            params[ROTATION],
            params[SCALING].exp(),
            params[OPACITY].sigmoid().squeeze(-1),
            _coefficients(params),
        )
        cameras = matrices(spec.cameras, len(params[XYZ]), spec.height, spec.width)
        seen = choose(params[XYZ].device)(splats, cameras)
        watched = ScreenSpace(seen.means, seen.radii, (spec.width, spec.height))
        return Rendered(seen.color, seen.opacity, None, None, watched)

    def final_buffers(self, params: Tensors, buffers: Tensors) -> Tensors:
        """The buffers as they are: pictures read none."""
        return buffers

    def gather(self, buffers: Tensors, told: Mapping[str, Tensor], step: int) -> Tensors:
        """Buffers with the counts of one more drift."""
        return density_control.count(buffers, told) if self.config.counted(step) else buffers

    def enter(
        self, params: Tensors, moments: Tensors, buffers: Tensors, step: int, seed: int
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Other Gaussians where they are cloned, split and pruned, and fainter ones where opacities are lowered."""
        if self.config.densifies(step):
            params, moments, buffers = density_control.densify(
                params, moments, buffers, self.config, step_generator(seed, step, "split")
            )
        if self.config.resets(step):
            params, moments = density_control.reset_opacity(params, moments, self.config.opacity_reset)
        return params, moments, buffers

    def elementwise(self, step: int) -> bool:
        """Whether nothing becomes of the Gaussians on the way into a step."""
        return not (self.config.densifies(step) or self.config.resets(step))

    @torch.no_grad()
    def density_and_color(self, params: Tensors, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [P], in 1 / length, and colour [P, 3] in [0, 1], as it is on the mean over directions."""
        color = (params[FEATURES_DC][0, :, 0] * spherical_harmonics.C0 + 0.5).clamp(0, 1)
        return density.density_and_color(
            params[XYZ][0],
            params[ROTATION][0],
            params[SCALING][0].exp(),
            params[OPACITY][0].sigmoid().squeeze(-1),
            color,
            points,
        )

    def splats(self, params: Tensors) -> Mapping[str, Tensor]:
        """The columns of `splats.ply`."""
        return columns(params)

    def total_variation(self, params: Tensors) -> Tensor:
        """Nothing: there is no grid."""
        raise ValueError("Gaussians must come without a loss on a grid, got one; use system.loss.lambda_tv=0")


def _coefficients(params: Tensors) -> Tensor:
    """[W, N, K, 3] of spherical harmonics."""
    if FEATURES_REST not in params:
        return params[FEATURES_DC]
    return torch.cat([params[FEATURES_DC], params[FEATURES_REST]], 2)


def _distance(places: Tensor) -> Tensor:
    """Root of the mean square [N] of the distances to the nearest neighbours."""
    near = min(NEIGHBOURS + 1, len(places))
    rows = [torch.cdist(part, places).topk(near, largest=False).values for part in places.split(1024)]
    return torch.cat(rows).square().sum(1).div(max(near - 1, 1)).sqrt()
