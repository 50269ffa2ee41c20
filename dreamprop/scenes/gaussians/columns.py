"""3D Gaussians as columns of numbers, in the layout of 3D Gaussian Splatting (arXiv:2308.04079) that viewers read.

Legend: N Gaussians, K coefficients of a colour.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.field import Tensors
from dreamprop.scenes.gaussians.names import FEATURES_DC, FEATURES_REST, OPACITY, ROTATION, SCALING, XYZ


def columns(params: Tensors) -> dict[str, Tensor]:
    """The columns [N] of a `splats.ply`, by name and in their order.

    Opacities are before the sigmoid, scales logarithms, rotations (w, x, y, z) of length 1; `f_rest_*` are the
    coefficients above degree 0, all of red, then of green, then of blue. Normals are zero: nobody reads them.
    """
    count = len(params[XYZ])
    rest = params.get(FEATURES_REST, params[XYZ].new_zeros(count, 0, 3)).transpose(1, 2).flatten(1)
    groups = (
        (("x", "y", "z"), params[XYZ]),
        (("nx", "ny", "nz"), torch.zeros_like(params[XYZ])),
        (tuple(f"f_dc_{i}" for i in range(3)), params[FEATURES_DC].flatten(1)),
        (tuple(f"f_rest_{i}" for i in range(rest.shape[1])), rest),
        (("opacity",), params[OPACITY]),
        (tuple(f"scale_{i}" for i in range(3)), params[SCALING]),
        (tuple(f"rot_{i}" for i in range(4)), F.normalize(params[ROTATION], dim=1)),
    )
    return {name: table[:, i] for names, table in groups for i, name in enumerate(names)}
