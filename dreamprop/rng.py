"""Randomness of a step, keyed by (seed, step, stream) and by nothing else.

The draws of a step must not depend on which device, rank, worker, order or attempt evaluates it, and steps
must not share noise: the key is hashed, since ``seed + step`` gives neighbouring runs shifted copies of one
another's noise.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def key(seed: int, step: int, stream: str = "") -> int:
    """63 bits of SHA-256 over (seed, step, stream).

    PyTorch's CPU generator keeps the low 32 bits, so among n keys some pair shares its noise with a
    probability of about n^2 / 2^33: rare over a run, and harmless where it happens.
    """
    digest = hashlib.sha256(f"{int(seed)}/{int(step)}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, step: int, stream: str = "") -> torch.Generator:
    """The generator of one step and one stream of draws, on the CPU whatever the device of the tensors.

    Args:
        seed: of the run.
        step: of the chain.
        stream: tells apart the independent draws of one step: ``"camera"``, ``"noise"``, ...

    Returns:
        A fresh generator; draw on the CPU and move the result.
    """
    return torch.Generator(device="cpu").manual_seed(key(seed, step, stream))


@contextmanager
def seeded(seed: int, step: int, device: torch.device, stream: str = "global") -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python by (seed, step, stream), and put them back after."""
    own = key(seed, step, stream)
    cuda = device.type == "cuda"
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else []):
        try:
            torch.default_generator.manual_seed(own)
            if cuda:
                torch.cuda.manual_seed_all(own)
            np.random.seed(own % 2**32)
            random.seed(own)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
