"""Pictures of 3D Gaussians by gsplat's CUDA kernels (`dreamprop[gaussians]`), through the interface of `splatting`.

Legend: W states, B pictures a state, N Gaussians, K coefficients of a colour, H and V pixels down and across.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from dreamprop.scenes.gaussians.projection import BLUR, NEAR
from dreamprop.scenes.gaussians.splatting import Splat, Splatted, splat


def splat_with_gsplat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    coefficients: Tensor,
    viewmats: Tensor,
    ks: Tensor,
    width: int,
    height: int,
) -> Splatted:
    """Pictures by `gsplat.rasterization`, of all states and cameras in one call; arguments as `splat` has them."""
    from gsplat import rasterization

    color, opacity, told = rasterization(
        means,
        quats,
        scales,
        opacities,
        coefficients,
        viewmats,
        ks,
        width,
        height,
        near_plane=NEAR,
        eps2d=BLUR,
        sh_degree=math.isqrt(coefficients.shape[-2]) - 1,
        packed=False,
        rasterize_mode="antialiased",
    )
    # [W, B, N, 2]: how far a shadow reaches across and down, 0 where it is not seen
    radii = told["radii"].amax(-1).to(means.dtype)
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
