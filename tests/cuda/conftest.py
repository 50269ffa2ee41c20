"""Tests whose claim is about a GPU; each runs on the CPU too where it can, so that a changed signature shows there.

``python -m pytest -m cuda`` runs those that need a GPU, and without one they are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.guidance import tiny

# cuBLAS reads it when it is first used: without it deterministic algorithms raise
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

needs_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device."""
    return torch.device(request.param)


@pytest.fixture(params=[pytest.param("cuda", marks=needs_gpu)])
def gpu(request: pytest.FixtureRequest) -> torch.device:
    """The GPU alone."""
    return torch.device(request.param)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Algorithms that give the same bits every time; what has none raises."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny latent diffusion model of random weights."""
    return tiny.save(tmp_path_factory.mktemp("latent"), latent=True)
