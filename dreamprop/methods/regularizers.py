"""The losses of a distillation besides its guidance, each a function of what was rendered.

Every one is a mean over the rays or vertices of a state, so its weight does not depend on the size of a picture.

Legend: W states, P pixels of a state's pictures together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import torch.nn.functional as F
from torch import Tensor

from dreamprop.methods.config import LossConfig
from dreamprop.scenes.field import Tensors
from dreamprop.scenes.rendered import Rendered
from dreamprop.scenes.scene import Scene
from dreamprop.schedule import schedule
from dreamprop.utils.transfer import filled

Weight = Callable[[int], float]
"""The weight of a loss as a function of the step."""


def orient(rendered: Rendered) -> Tensor:
    """Penalty [W] of normals n that face away from the camera along rays d, where they are seen.

        mean over rays of sum_k w_k max(0, n_k . d)^2

    (Ref-NeRF, arXiv:2112.03907; arXiv:2209.14988, section 3.2); the weights w are held constant.
    """
    assert rendered.orientation is not None, "the renderer measures it where its weight is above 0"
    return rendered.orientation


def sparsity(opacity: Tensor) -> Tensor:
    """`mean sqrt(o^2 + 0.01)` [W] of opacities [W, P]: no matter that nobody needs (arXiv:2209.14988)."""
    return (opacity.square() + 0.01).sqrt().mean(1)


def opaque(opacity: Tensor) -> Tensor:
    """Entropy `mean -o log o - (1 - o) log(1 - o)` [W] of opacities [W, P]: a pixel is full or empty.

    threestudio's `lambda_opaque`; opacities are kept 0.001 from 0 and 1, where the logarithm ends.
    """
    bounded = opacity.clamp(1e-3, 1 - 1e-3)
    return F.binary_cross_entropy(bounded, bounded, reduction="none").mean(1)


def total_variation(scene: Scene, params: Tensors) -> Tensor:
    """Mean squared difference [W] between neighbours of a grid (as Plenoxels, arXiv:2112.05131)."""
    return scene.total_variation(params)


def weights(config: LossConfig) -> dict[str, Weight]:
    """The weight by step of every loss that a config names, `lambda_<name>` there; `sds` among them."""
    named = {entry.name.removeprefix("lambda_"): getattr(config, entry.name) for entry in fields(config)}
    return {name: schedule(value) for name, value in named.items()}


def regularize(
    weights: Mapping[str, Weight], steps: Sequence[int], scene: Scene, params: Tensors, rendered: Rendered
) -> Tensor:
    """The weighted sum of all losses here over W states; one whose weights are all 0 is not evaluated.

    Args:
        weights: by name of the loss.
        steps: W, those of the states.
        scene: what the parameters mean.
        params: [W, ...] by name.
        rendered: what they show.
    """
    opacity = rendered.opacity.reshape(len(steps), -1)
    losses: dict[str, Callable[[], Tensor]] = {
        "orient": lambda: orient(rendered),
        "sparsity": lambda: sparsity(opacity),
        "opaque": lambda: opaque(opacity),
        "tv": lambda: total_variation(scene, params),
    }
    total = opacity.new_zeros(())
    for name, loss in losses.items():
        by_state = [weights[name](step) for step in steps]
        if any(by_state):
            total = total + (loss() * filled(by_state, total.device)).sum()
    return total
