"""The losses of a guidance by name: what each makes of noisy pictures is one function in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from dreamprop.guidance.denoiser import Denoiser
from dreamprop.guidance.ism import ism
from dreamprop.guidance.protocol import Draw
from dreamprop.guidance.sdi import sdi
from dreamprop.guidance.sds import sds
from dreamprop.guidance.sjc import sjc


class Loss(Protocol):
    """A pure function to the gradient of a loss, before its weight w(t), with respect to N pictures at once."""

    def __call__(self, denoiser: Denoiser, z: Tensor, draw: Draw, scale: Tensor) -> Tensor:
        """The gradient without its weight.

        Args:
            denoiser: the model, told the prompt of each picture.
            z: [N, C, h, w] pictures in [-1, 1] or their latents, outside the graph.
            draw: of all N, on the device of the pictures.
            scale: [N, 1, 1, 1] of classifier-free guidance.

        Returns:
            [N, C, h, w]
        """
        ...


LOSSES: dict[str, Callable[..., Tensor]] = {"sds": sds, "sjc": sjc, "ism": ism, "sdi": sdi}
"""By the names that `system.guidance.loss` takes; a `Loss` each, once its own options are given as keywords."""
LEARNING = ("vsd",)
"""Names that it takes too, of losses that also ask a network which the chain trains: each is a guidance of its own."""
