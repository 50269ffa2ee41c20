"""Tiny models on disk and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamprop.guidance.diffusion import Model, load
from tests.guidance import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of a file's tests lie."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def pixels(folder: Path) -> Model:
    """A model of pixels, from `folder / "pixels"`."""
    return load(tiny.save(folder / "pixels"), "cpu")
