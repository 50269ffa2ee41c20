"""DreamGaussian (arXiv:2309.16653): 3D Gaussians moved by score distillation, as a process.

What a step is stands in `dreamfusion`, for any scene: here the scene is Gaussians, whose number changes at steps that
are known while how many there will be is not, and whose pictures grow over the run (`data.resolution_milestones`).
The paper's second stage, which paints a mesh, is not a part of it.
"""

from __future__ import annotations

from dreamprop.methods.dreamfusion import DreamFusion


class DreamGaussian(DreamFusion):
    """Score distillation of 3D Gaussians: `DreamFusion` with the scene of `DreamGaussianConfig`."""
