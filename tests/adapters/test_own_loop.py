"""The examples of docs/own-loop.md run as they stand, with fewer steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dreamprop as dp

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-loop.md"


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {}
    solutions = []
    for block in blocks:
        exec(
            compile(block.replace("num_steps=1000, window=8", "num_steps=2, window=2"), str(PAGE), "exec"),
            names,
        )
        solutions.append(names.pop("solution", None))
    frozen, mapped, no_run = solutions
    assert no_run is None and issubclass(names["Mine"], dp.Process)
    for solution in (frozen, mapped):
        assert solution.state.step == 2
    assert (names["module"].pixels == frozen.state.params["pixels"]).all(), "it was committed"
