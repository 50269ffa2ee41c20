"""How near two results are.

Legend: N views, H x W pixels, RGB in [0, 1].
"""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

PSNR_CAP = 100.0
"""Decibels reported for equal pictures, whose ratio is infinite and so not a number that JSON can hold."""


def psnr_db(views: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio over all views, `10 log10(1 / mean square difference)`, at most `PSNR_CAP`.

    Args:
        views: [N, 3, H, W] in [0, 1].
        reference: [N, 3, H, W] in [0, 1].

    Returns:
        Decibels.
    """
    value = float(peak_signal_noise_ratio(views.double(), reference.double(), data_range=1.0))
    return min(value, PSNR_CAP)


def ssim(views: Tensor, reference: Tensor) -> float:
    """Mean structural similarity over the views, 1 for equal pictures.

    Args:
        views: [N, 3, H, W] in [0, 1].
        reference: [N, 3, H, W] in [0, 1].
    """
    value = structural_similarity_index_measure(views.double(), reference.double(), data_range=1.0)
    assert isinstance(value, Tensor)
    return float(value)
