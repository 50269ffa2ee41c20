"""What guides the methods under test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guidance import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of random weights on disk."""
    return tiny.save(tmp_path_factory.mktemp("model"))
