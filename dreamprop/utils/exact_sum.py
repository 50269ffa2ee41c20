"""Sums that are the same however their terms are dealt out.

Floating-point addition rounds at every step, so a sum depends on its order, and the sum of sums on where the terms
were cut. Here terms are the norms of pieces whose borders depend on a tensor alone, and what is added up is added
exactly and rounded once: any number of processes, threads or devices arrives at the same number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dreamprop.utils import foreach


def piece_norms(owners: Sequence[int], tensors: Sequence[Tensor]) -> tuple[list[int], Sequence[Tensor]]:
    """Euclidean norms of the pieces of tensors, cut at multiples of ``foreach.PIECE``.

    Pieces are short enough that PyTorch reduces each of them in one thread of a CPU or one block of a GPU.

    Args:
        owners: a number for each tensor.
        tensors: of one floating-point or complex type.

    Returns:
        For each piece the number of its tensor, and its norm, a scalar on the tensor's device.
    """
    owned = [
        (k, piece)
        for k, t in zip(owners, tensors, strict=True)
        for piece in t.reshape(-1).split(foreach.PIECE)
    ]
    # a sum of squares overflows in half precision
    wide = torch.float32 if owned and owned[0][1].dtype.itemsize < 4 else None
    return [k for k, _ in owned], torch._foreach_norm([piece for _, piece in owned], ord=2, dtype=wide)


def total(terms: Iterable[float]) -> float:
    """The exact sum of the terms, rounded once; infinite where it is too large for a float, NaN where a term is."""
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):
        return math.inf


def partial_sums(terms: Sequence[float]) -> list[float]:
    """A few numbers whose exact sum is that of many, so that ``total`` of all parts is ``total`` of all terms.

    Each is what the ones before leave of the sum, rounded once (Shewchuk 1997, "Adaptive precision floating-point
    arithmetic", nonoverlapping expansions); two or three are usual.
    """
    found: list[float] = []
    while (rest := total([*terms, *(-part for part in found)])) != 0:
        found.append(rest)
        if not math.isfinite(rest):
            return [rest]
    return found
