"""A run whose scene becomes empty says so, once."""

from __future__ import annotations

import logging

import pytest

from dreamprop.runs.empty_scene import PATIENCE, Emptiness
from dreamprop.threestudio.empty_renders import WORDS, EmptyRenders


def test_an_empty_scene_is_told_once() -> None:
    told: list[str] = []
    watch = Emptiness(0.0, "occupied cells", told.append)
    for step, cells in enumerate([40, 3, 0, 0, 5, 0]):
        watch.look(step, cells)
    (line,) = told
    assert "empty at step 2: occupied cells 0" in line and "\n" not in line


def test_many_renders_without_samples_are_told_once() -> None:
    told: list[str] = []
    watch = Emptiness(0.0, "occupied cells", told.append)
    for step in range(3 * PATIENCE):
        watch.rendered(step, samples=step < PATIENCE)
    (line,) = told
    assert f"up to step {2 * PATIENCE - 1}" in line


def test_no_flood_of_empty_renders(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("a logger of its own")
    kept = EmptyRenders()
    logger.addFilter(kept)
    for words in (WORDS, WORDS, "something else"):
        logger.warning(words)
    assert kept.count == 2 and caplog.messages == ["something else"]
