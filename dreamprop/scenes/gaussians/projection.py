"""From 3D Gaussians to their shadows on pictures: elliptical weighted average splatting (EWA), in gsplat's conventions.

    Sigma = R S S^T R^T,   Sigma' = J V Sigma V^T J^T + eps I,   rho = sqrt(det(Sigma' - eps I) / det Sigma')

(arXiv:2308.04079, equations 5 and 6; eps = 0.3 square pixels). With the blur eps a splat is seen as large as a pixel
at least; its opacity times rho keeps what it hides as it was (arXiv:2311.16493, the filter of Mip-Splatting in the
form of gsplat's `rasterize_mode="antialiased"`).

Legend: W states, B pictures a state, N Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.gaussians.camera_matrices import CameraMatrices
from dreamprop.scenes.gaussians.splats import Splats

BLUR = 0.3
"""Square pixels that are added to the variance of a shadow in each direction: eps."""
NEAR = 0.01
"""What is nearer to the camera than this is not seen, in units of length."""
MARGIN = 0.3
"""How far beyond the picture, as a share of its half angle's tangent, the perspective is linearised where a Gaussian
is; farther out it is taken as there."""


@dataclass(frozen=True)
class Projected:
    """The shadows of N Gaussians on B pictures of each of W states."""

    means: Tensor
    """[W, B, N, 2] columns and rows in pixels, the first centre at 0.5."""
    covariances: Tensor
    """[W, B, N, 3] of the shadow with its blur: xx, xy and yy in square pixels."""
    compensation: Tensor
    """[W, B, N] rho, in [0, 1]."""
    depth: Tensor
    """[W, B, N] along the camera's axis, in units of length."""


def rotation(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z), which need not be of length 1."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project(splats: Splats, cameras: CameraMatrices) -> Projected:
    """The shadows of Gaussians."""
    ks, width, height = cameras.ks, cameras.width, cameras.height
    turn, shift = cameras.viewmats[..., :3, :3], cameras.viewmats[..., :3, 3]  # [W, B, 3, 3], [W, B, 3]
    local = splats.means[:, None] @ turn.transpose(-1, -2) + shift[..., None, :]  # [W, B, N, 3]
    depth = local[..., 2]
    z = depth.clamp(min=NEAR)
    fx, fy = ks[..., 0, 0, None], ks[..., 1, 1, None]  # [W, B, 1]
    cx, cy = ks[..., 0, 2, None], ks[..., 1, 2, None]
    u, v = local[..., 0] / z, local[..., 1] / z
    center = torch.stack([fx * u + cx, fy * v + cy], -1)

    beyond_x, beyond_y = MARGIN * width / (2 * fx), MARGIN * height / (2 * fy)
    u = torch.minimum(torch.maximum(u, -cx / fx - beyond_x), (width - cx) / fx + beyond_x)
    v = torch.minimum(torch.maximum(v, -cy / fy - beyond_y), (height - cy) / fy + beyond_y)
    zero = torch.zeros_like(z)
    rows = [fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z]
    jacobian = torch.stack(rows, -1).unflatten(-1, (2, 3))  # [W, B, N, 2, 3]
    axes = rotation(splats.quats) * splats.scales[..., None, :]  # [W, N, 3, 3]
    # J V R S [W, B, N, 2, 3], whose product with its transpose is the covariance
    root = jacobian @ turn[..., None, :, :] @ axes[:, None]
    xx, xy, yy = ((root[..., i, :] * root[..., j, :]).sum(-1) for i, j in ((0, 0), (0, 1), (1, 1)))
    sharp = xx * yy - xy * xy
    xx, yy = xx + BLUR, yy + BLUR
    compensation = (sharp / (xx * yy - xy * xy)).clamp(min=1e-12).sqrt()
    return Projected(center, torch.stack([xx, xy, yy], -1), compensation, depth)
