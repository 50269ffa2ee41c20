"""A scratch folder for tests against a real checkout, and nerfacc without its CUDA kernels."""

from __future__ import annotations

import importlib
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


@pytest.fixture
def nerfacc_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """nerfacc with its kernels replaced, as `install` does."""
    from dreamprop.threestudio.compat.nerfacc import kernel_table, packed

    cuda = importlib.import_module("nerfacc.cuda")
    for name, kernel in kernel_table.kernels().items():
        assert hasattr(cuda, name)
        monkeypatch.setattr(cuda, name, kernel)
    for name in ("nerfacc", "nerfacc.pack", "nerfacc.volrend"):
        monkeypatch.setattr(importlib.import_module(name), "pack_info", packed.pack_info)
