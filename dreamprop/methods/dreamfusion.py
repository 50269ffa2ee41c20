"""DreamFusion (arXiv:2209.14988): a scene moved by score distillation, as a process.

A drift renders the pictures of a step, asks the diffusion model which way they should change, and carries that back
to the parameters. It is written once, for W states: their scenes are rendered together, all pictures go through one
call of the U-Net, and one backward pass of the sum of the losses gives all gradients.

Legend: W states, B pictures a state, N pictures in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamprop.guidance.protocol import Pictures, join
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.methods.distillation import Distillation
from dreamprop.methods.regularizers import regularize
from dreamprop.methods.rendering import Batch, drifts
from dreamprop.methods.step_sample import StepSample, draw_steps
from dreamprop.scenes.cameras import pose
from dreamprop.state import Drift, State
from dreamprop.utils.transfer import filled

__all__ = ["DataConfig", "DreamFusion", "SystemConfig"]


class DreamFusion(Distillation):
    """Score distillation sampling: the drift of a state with parameters theta is (arXiv:2209.14988, eq. 3)

        lambda_sds / B sum_b grad_b . dz_b / dtheta + the gradient of the other losses

    where z_b is picture b as the diffusion model sees it, and grad_b what the guidance asks of it.
    """

    def evaluate(self, states: Sequence[State]) -> list[Drift]:
        """The gradients at W states: their scenes rendered, one call of the U-Net, and one backward pass."""
        samples = draw_steps(
            self.data, self.system, self.guidance, self.seed, [s.step for s in states], self.device
        )
        batches = self.renderer(states, samples)
        with torch.enable_grad():
            loss = self._distil(batches, samples)
            for batch in batches:
                loss = loss + regularize(self.weights, batch.steps, self.scene, batch.mine, batch.rendered)
            return drifts(loss, batches)

    def _distil(self, batches: Sequence[Batch], samples: Sequence[StepSample]) -> Tensor:
        """A scalar whose gradient with respect to the pictures is the one that guidance asks for, and with respect to
        the guidance's own parameters that of its own loss."""
        pictures = _pictures(batches, samples)
        names = [name for names in self.guidance.groups().values() for name in names]
        own = {name: torch.cat([batch.params[name] for batch in batches]) for name in names}
        z, grad = self.guidance.gradient(pictures, own)
        learning = self.guidance.training_loss(z, pictures, own)
        per_state = [count for count in pictures.counts for _ in range(count)]
        shares = zip(pictures.steps, per_state, strict=True)
        scale = filled([self.weights["sds"](step) / count for step, count in shares], z.device)
        pushed = (z * (grad * scale.view(-1, 1, 1, 1))).sum()
        return pushed if learning is None else pushed + learning


def _pictures(batches: Sequence[Batch], samples: Sequence[StepSample]) -> Pictures:
    """The pictures of batches as guidance is asked about them, with what their steps drew for it."""
    order = [place for batch in batches for place in batch.places]
    counts = [samples[place].size[0] for place in order]
    by_state = [step for batch in batches for step in batch.steps]
    return Pictures(
        images=torch.cat([batch.images for batch in batches]),
        elevation=torch.cat([batch.cameras.elevation for batch in batches]),
        azimuth=torch.cat([batch.cameras.azimuth for batch in batches]),
        pose=torch.cat([pose(batch.cameras) for batch in batches]),
        draw=join([samples[place].guidance for place in order]),
        steps=[step for step, count in zip(by_state, counts, strict=True) for _ in range(count)],
        counts=counts,
    )
