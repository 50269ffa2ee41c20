"""What a report measures and draws."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from dreamprop.runs.artifacts import plots
from dreamprop.runs.artifacts.quality import psnr_db
from dreamprop.runs.outcome import occupied
from dreamprop.state import State


def test_psnr_is_that_of_all_views_together() -> None:
    a, b = (torch.randint(0, 256, (3, 3, 16, 20), dtype=torch.uint8) for _ in range(2))
    b[0] = a[0]
    square = ((a.double() - b.double()) / 255).square().mean()
    assert psnr_db(a, b) == pytest.approx(-10 * math.log10(square))
    assert psnr_db(a / 255, b / 255) == pytest.approx(psnr_db(a, b), rel=1e-6)
    with pytest.raises(ValueError):
        psnr_db(a, b[:2])


def test_flags_are_counted() -> None:
    grid, alone = torch.zeros(2, 4, dtype=torch.bool), torch.tensor(True)
    grid[1, 1:] = True
    state = State({}, {}, {"grid.binaries": grid, "flag": alone, "occs": torch.ones(8)}, 3)
    assert occupied(state) == {"grid.binaries": {"cells": 3, "of": 8}}


PEAKS = """
import torch
from dreamprop.utils.peak_memory import Peak

peak, later = Peak(torch.device("cpu")), Peak(torch.device("cpu"))
with peak:
    pass
print(peak.bytes)
torch.ones(32 << 20)  # not measured
with peak:
    torch.ones(16 << 20)
with later:
    pass
print(peak.bytes, later.bytes)
"""


def test_the_peak_is_that_of_what_is_measured() -> None:
    """In a process of its own, whose memory nothing else gives back meanwhile."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, peak, later = done.stdout.split()
    if before == "None":
        pytest.skip("this system does not let a process set its mark back")
    assert 60 << 20 < int(peak) - int(before) < 90 << 20
    assert int(peak) - int(later) > 60 << 20


def test_a_long_curve_is_drawn_as_means() -> None:
    steps, values = plots._thinned([(t, float(t % 3)) for t in range(600)])
    assert len(steps) == plots.POINTS and steps[:2] == [1, 4] and set(values) == {1}
    assert plots._thinned([(0, 2.0), (5, 3.0)]) == ([0, 5], [2, 3])
    assert plots.losses({"sequential": {}, "accelerated": {}}) == ""
