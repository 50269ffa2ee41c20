"""A scratch folder to work in, for tests against a real checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import upstream


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("upstream")
    before = Path.cwd()
    upstream.enter(made)
    os.chdir(before)
    return made


@pytest.fixture
def folder(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a test against a real checkout."""
    monkeypatch.chdir(scratch)
    yield scratch
