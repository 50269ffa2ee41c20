"""The states of the process's global generators: torch's on the CPU and on GPUs, numpy's and Python's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generator_states() -> Any:
    """The states as they are now."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def restore(states: Any) -> None:
    """Put the generators back into states that they had."""
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
    np.random.set_state(states[2])
    random.setstate(states[3])


def same_states(some: Any, others: Any) -> bool:
    """Whether the generators have been left alone in between; the states are on the CPU, so no device is read."""
    torchs = zip([some[0], *some[1]], [others[0], *others[1]], strict=True)
    numpys = all(np.array_equal(a, b) for a, b in zip(some[2], others[2], strict=True))
    return all(torch.equal(a, b) for a, b in torchs) and numpys and bool(some[3] == others[3])
