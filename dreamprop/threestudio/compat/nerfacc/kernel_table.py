"""What stands in for nerfacc's CUDA kernels, by their names there."""

from __future__ import annotations

from typing import Any

from dreamprop.threestudio.compat.nerfacc.packed import (
    RaySegmentsSpec,
    exclusive_prod_backward,
    exclusive_prod_forward,
    exclusive_sum,
    inclusive_prod_backward,
    inclusive_prod_forward,
    inclusive_sum,
)


def kernels() -> dict[str, Any]:
    """Everything that stands in for an attribute of `nerfacc.cuda`, by its name there."""
    from dreamprop.threestudio.compat.nerfacc import resample, traversal

    return {
        "RaySegmentsSpec": RaySegmentsSpec,
        "ray_aabb_intersect": traversal.ray_aabb_intersect,
        "traverse_grids": traversal.traverse_grids,
        "inclusive_sum": inclusive_sum,
        "exclusive_sum": exclusive_sum,
        "inclusive_prod_forward": inclusive_prod_forward,
        "inclusive_prod_backward": inclusive_prod_backward,
        "exclusive_prod_forward": exclusive_prod_forward,
        "exclusive_prod_backward": exclusive_prod_backward,
        "importance_sampling": resample.importance_sampling,
        "searchsorted": resample.searchsorted,
    }
