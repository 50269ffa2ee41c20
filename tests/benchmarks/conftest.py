"""The benchmarks as modules: they are scripts of one folder, and import each other by name."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their folder, on the path of modules."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return FOLDER
