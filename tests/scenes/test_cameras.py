"""Cameras: threestudio's conventions, ranges, and rays that project back to their pixels."""

from __future__ import annotations

import torch

from dreamprop.scenes.cameras import Ranges, direction, draw, orbit, place, project, rays
from dreamprop.scenes.directions import Views


def tensors(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_azimuth_0_is_x_and_z_is_up() -> None:
    found = direction(tensors(0, 0, 90), tensors(0, 90, 0))
    assert torch.allclose(found, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]), atol=1e-6)


def test_axes_are_right_handed_and_look_at_the_origin() -> None:
    view = orbit(tensors(0, 30), tensors(0, 200), tensors(2, 3), tensors(45, 45))
    assert torch.allclose(torch.linalg.det(view.axes), torch.ones(2), atol=1e-6)
    assert torch.allclose(view.axes[0], torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), atol=1e-6)
    middle = project(view, torch.zeros(1, 3), 10, 20)
    assert torch.allclose(middle, torch.tensor([10.0, 5]).expand(2, 1, 2), atol=1e-5)


def test_known_points_fall_where_they_must() -> None:
    view = orbit(tensors(0), tensors(0), tensors(2), tensors(90))  # half height 2 at the origin
    points = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0.5]])
    expected = torch.tensor([[[15.0, 10], [10, 5], [10, 5]]])
    assert torch.allclose(project(view, points, 20, 20), expected, atol=1e-5)


def test_points_on_rays_project_to_their_pixels() -> None:
    u, n = draw(3, torch.Generator().manual_seed(0))
    ranges = Ranges(camera_perturb=0.1, center_perturb=0.2, up_perturb=0.02)
    view = place(u[None], n[None], ranges)
    origins, towards = rays(view, 4, 6)
    assert torch.allclose(towards.norm(dim=-1), torch.ones(3, 24), atol=1e-6)
    centres = torch.stack(
        torch.meshgrid(torch.arange(4) + 0.5, torch.arange(6) + 0.5, indexing="ij")[::-1], -1
    ).view(-1, 2)
    for camera in range(3):
        points = origins[camera] + 1.7 * towards[camera]
        assert torch.allclose(project(view, points, 4, 6)[camera], centres, atol=1e-4)


def test_draws_stay_in_their_ranges() -> None:
    ranges = Ranges((-10, 45), (-180, 180), True, (1.5, 2.0), (40, 70), light_distance=(0.8, 1.5))
    u, n = draw(4, torch.Generator().manual_seed(0))
    views = [place(u[None], n[None], ranges)]
    for seed in range(1, 100):
        u, n = draw(4, torch.Generator().manual_seed(seed))
        views.append(place(u[None], n[None], ranges))
    for name, (low, high) in {
        "elevation": (-10, 45), "azimuth": (-180, 180), "distance": (1.5, 2), "fovy": (40, 70),
    }.items():  # fmt: skip
        values = torch.cat([getattr(v, name) for v in views])
        assert low - 1e-4 <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high + 1e-4
    lamps = torch.cat([v.light for v in views]).norm(dim=-1)
    assert lamps.min() >= 0.8 - 1e-5 and lamps.max() <= 1.5 + 1e-5
    # one camera in each quarter
    for v in views:
        assert torch.equal(((v.azimuth + 180) / 90).floor(), torch.arange(4.0))


def test_states_of_a_window_have_their_own_cameras() -> None:
    one = [draw(2, torch.Generator().manual_seed(s)) for s in range(3)]
    together = place(torch.stack([u for u, _ in one]), torch.stack([n for _, n in one]), Ranges())
    for i, (u, n) in enumerate(one):
        alone = place(u[None], n[None], Ranges())
        assert torch.equal(alone.position, together.position[2 * i : 2 * i + 2])


def test_words_are_those_of_the_numbers() -> None:
    elevation, azimuth = tensors(0, 0, 0, 61, -20), tensors(10, 100, 179, 10, -170)
    assert Views().words(elevation, azimuth) == ["front", "side", "back", "overhead", "back"]
    assert Views(overhead_threshold=70.0).words(elevation, azimuth)[3] == "front"
