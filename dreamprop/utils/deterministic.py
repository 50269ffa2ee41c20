"""Sums in one order: on a GPU, what PyTorch adds with atomic operations comes in any order unless it is told not to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""What cuBLAS must find in the environment when CUDA starts, to compute the same twice."""


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """A block in which PyTorch takes deterministic algorithms alone, and raises where it has none.

    Args:
        on: false leaves everything as it is. True must come before CUDA is first used, since cuBLAS takes its
            workspace then.
    """
    if not on:
        yield
        return
    workspace, benchmark = os.environ.get(WORKSPACE), torch.backends.cudnn.benchmark
    mode = torch.get_deterministic_debug_mode()
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    # what is fastest at a first try may be another algorithm at the next
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
