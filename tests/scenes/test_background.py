"""Backgrounds: functions of their draws, inside of what a picture can show, and as varied as they are said to be."""

from __future__ import annotations

import pytest
import torch

from dreamprop.scenes import background
from dreamprop.scenes.config import RANDOM_COLOR, RANDOM_GRADIENT


@pytest.mark.parametrize("kind", [RANDOM_COLOR, RANDOM_GRADIENT])
def test_a_random_background_is_a_function_of_its_own_draws_within_the_range_of_pictures(kind: str) -> None:
    uniform = torch.rand(64, background.UNIFORMS[kind])
    many = background.random(kind, uniform, 6, 4)
    assert many.shape[:3] == (64, 3, 6) and many.shape[3] in (1, 4)
    assert float(many.min()) >= 0 and float(many.max()) <= 1
    assert torch.equal(many[5:6], background.random(kind, uniform[5:6], 6, 4))


def test_gradients_run_from_their_first_colour_towards_the_second_in_the_direction_that_was_drawn() -> None:
    drawn = torch.tensor([[1.0, 0, 0, 0, 0, 1, 1, 0.5, 0], [1.0, 0, 0, 0, 0, 1, 1, 0.5, 0.25]])
    down, across = background.gradient(drawn, 3, 3)
    assert torch.equal(down, down[:, :, :1].expand_as(down)) and (down[0].diff(dim=0) < 0).all()
    assert torch.allclose(across, down.transpose(1, 2), atol=1e-6)
    # the middle is halfway along a blend of 0.6 from red to blue
    torch.testing.assert_close(down[:, 1, 1], torch.tensor([0.7, 0, 0.3]))
    grey = background.gradient(drawn.clone().index_fill_(1, torch.tensor(7), 0.1), 3, 3)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 1], grey[:, 2])


def test_no_fixed_colour_passes_for_a_gradient_as_one_does_for_soft_tints() -> None:
    apart = {}
    for kind, count in ((RANDOM_COLOR, 5), (RANDOM_GRADIENT, 9)):
        uniform = torch.rand(2000, count, generator=torch.Generator().manual_seed(0))
        hue = background.random(kind, uniform, 1, 1)[..., 0, 0]  # [N, 3]
        apart[kind] = float((hue - hue.mean(1, keepdim=True)).square().mean().sqrt())
    assert apart[RANDOM_GRADIENT] > 3 * apart[RANDOM_COLOR]
