"""How near two results are.

Legend: N views, H x W pixels, RGB in [0, 1], or 8 bits of it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

PSNR_CAP = 100.0
"""Decibels reported for equal pictures, whose ratio is infinite and so not a number that JSON can hold."""


def psnr_db(views: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Peak signal-to-noise ratio over all views, `10 log10(1 / mean square difference)`, at most `PSNR_CAP`.

    Args:
        views: [N] of [3, H, W].
        reference: [N] of [3, H, W].

    Returns:
        Decibels.
    """
    # of several processes only the first one measures, and must not wait for the others
    metric = PeakSignalNoiseRatio(data_range=1.0, sync_on_compute=False)
    return min(_over(metric, views, reference), PSNR_CAP)


def ssim(views: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Mean structural similarity over the views, 1 for equal pictures.

    Args:
        views: [N] of [3, H, W].
        reference: [N] of [3, H, W].
    """
    return _over(StructuralSimilarityIndexMeasure(data_range=1.0, sync_on_compute=False), views, reference)


def _over(metric: Metric, views: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """A metric over pairs of views, taken one after another: all of them at once would want much memory."""
    metric.set_dtype(torch.float64)
    for view, other in zip(views, reference, strict=True):
        metric.update(_exact(view)[None], _exact(other)[None])
    return float(metric.compute())


def _exact(view: Tensor) -> Tensor:
    return view.double() / 255 if view.dtype == torch.uint8 else view.double()
