"""Pictures of 3D Gaussians by gsplat's CUDA kernels (`dreamprop[gaussians]`), through the interface of `splatting`.

Legend: W states, B pictures a state, N Gaussians.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch

from dreamprop.scenes.gaussians.camera_matrices import CameraMatrices
from dreamprop.scenes.gaussians.projection import BLUR, NEAR
from dreamprop.scenes.gaussians.splats import Splats
from dreamprop.scenes.gaussians.splatting import Splat, Splatted, splat


def splat_with_gsplat(splats: Splats, cameras: CameraMatrices) -> Splatted:
    """Pictures by `gsplat.rasterization`, of all states and cameras in one call."""
    from gsplat import rasterization

    color, opacity, told = rasterization(
        splats.means,
        splats.quats,
        splats.scales,
        splats.opacities,
        splats.coefficients,
        cameras.viewmats,
        cameras.ks,
        cameras.width,
        cameras.height,
        near_plane=NEAR,
        eps2d=BLUR,
        sh_degree=math.isqrt(splats.coefficients.shape[-2]) - 1,
        packed=False,
        rasterize_mode="antialiased",
    )
    # [W, B, N, 2]: how far a shadow reaches across and down, 0 where it is not seen
    radii = told["radii"].amax(-1).to(splats.means.dtype)
    return Splatted(
        color.flatten(0, 1).permute(0, 3, 1, 2),
        opacity.flatten(0, 1).permute(0, 3, 1, 2),
        told["means2d"],
        radii,
    )


def choose(device: torch.device) -> Splat:
    """What makes pictures on a device: gsplat on CUDA where it is installed, else plain PyTorch.

    gsplat's gradients are sums in any order, which PyTorch knows nothing of: where deterministic algorithms are asked
    for, it is left out.
    """
    if torch.are_deterministic_algorithms_enabled() or device.type != "cuda":
        return splat
    if find_spec("gsplat") is not None:
        return splat_with_gsplat
    return splat
