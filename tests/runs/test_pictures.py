"""Views and turntable of a result."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamprop.runs.artifacts.config import OutputConfig
from dreamprop.runs.artifacts.views import views_of, write_pictures
from dreamprop.state import State


class Dial:
    """Shows by its grey how far the camera has gone around, and counts how many pictures it made."""

    made = 0

    def render_views(
        self, state: State, num_views: int, width: int, height: int, elevation: float = 15.0
    ) -> Tensor:
        self.made += num_views
        return (torch.arange(num_views) / num_views).view(-1, 1, 1, 1).expand(num_views, 3, height, width)


@pytest.mark.parametrize(
    ("frames", "size", "made"),
    [(12, 8, 12), (12, 6, 12 + 4), (10, 8, 10 + 4)],
    ids=["shared", "size", "angles"],
)
def test_views_are_frames_of_the_turntable_where_those_pass_by(
    tmp_path: Path, frames: int, size: int, made: int
) -> None:
    output = OutputConfig(views=4, view_size=8, turntable_frames=frames, turntable_size=size)
    dial, state = Dial(), State({}, {}, {}, 0)
    views = write_pictures(dial, state, output, tmp_path)
    assert dial.made == made
    assert torch.equal(views, views_of(dial, state, output))
    assert np.asarray(Image.open(tmp_path / "views.png")).shape == (8, 4 * 8, 3)
    assert Image.open(tmp_path / "turntable.gif").n_frames == frames
