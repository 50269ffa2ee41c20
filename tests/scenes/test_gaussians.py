"""Pictures of 3D Gaussians: closed forms, a slow twin, gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import sph_harm_y

from dreamprop.scenes import cameras
from dreamprop.scenes.gaussians import spherical_harmonics
from dreamprop.scenes.gaussians.camera_matrices import matrices
from dreamprop.scenes.gaussians.config import GaussiansConfig
from dreamprop.scenes.gaussians.projection import BLUR
from dreamprop.scenes.gaussians.rasterize import fixed_point_sum, rasterize_shadows
from dreamprop.scenes.gaussians.scene import Gaussians
from dreamprop.scenes.gaussians.splats import Splats
from dreamprop.scenes.gaussians.splatting import splat
from dreamprop.scenes.rendered import PictureSpec
from tests.scenes.gaussians import around, dense, parts, scattered


def test_harmonics_are_those_of_scipy() -> None:
    towards = F.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    x, y, z = towards.numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    expected = []
    for degree in range(spherical_harmonics.MOST + 1):
        for m in range(-degree, degree + 1):
            found = sph_harm_y(degree, abs(m), theta, phi)
            expected.append(found.real if m == 0 else math.sqrt(2) * (found.imag if m < 0 else found.real))
    ours = spherical_harmonics.basis(towards, spherical_harmonics.MOST)
    assert torch.allclose(ours, torch.from_numpy(np.stack(expected, 1)), atol=1e-12)


def test_matrices_put_points_where_cameras_see_them() -> None:
    seen = cameras.place(
        *(t[None] for t in cameras.draw(4, torch.Generator().manual_seed(0))), cameras.Ranges()
    )
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * 0.2
    found = matrices(seen, 1, 30, 40)
    local = torch.cat([points, torch.ones(20, 1)], 1) @ found.viewmats[0].transpose(1, 2)
    flat = local[..., :3] @ found.ks[0].transpose(1, 2)
    assert torch.allclose(flat[..., :2] / flat[..., 2:], cameras.project(seen, points, 30, 40), atol=1e-4)


def round_ones(places: list[list[float]], scale: float, opacities: list[float], colors: list[list[float]]):  # type: ignore[no-untyped-def]
    """Round Gaussians seen from the front at a distance of 2 by a camera of 41 pixels."""
    count = len(places)
    scene = Splats(
        torch.tensor([places], dtype=torch.float64),
        torch.tensor([[[1.0, 0, 0, 0]]], dtype=torch.float64).expand(1, count, 4),
        torch.full((1, count, 3), scale, dtype=torch.float64),
        torch.tensor([opacities], dtype=torch.float64),
        (torch.tensor([colors], dtype=torch.float64)[:, :, None] - 0.5) / spherical_harmonics.C0,
    )
    one = torch.ones(1, dtype=torch.float64)
    front = matrices(cameras.orbit(0 * one, 0 * one, 2 * one, 40 * one), 1, 41, 41)
    return splat(scene, front), float(front.ks[0, 0, 0, 0])


def test_a_single_gaussian_is_a_bell_with_the_blur_of_a_pixel() -> None:
    seen, focal = round_ones([[0, 0, 0]], 0.1, [0.7], [[0.2, 0.4, 0.8]])
    variance = (focal * 0.1 / 2) ** 2
    at = torch.arange(41, dtype=torch.float64) - 20
    square = at[:, None] ** 2 + at[None] ** 2
    # det of the covariance without the blur over that with it, and its root
    alpha = 0.7 * variance / (variance + BLUR) * torch.exp(-square / (2 * (variance + BLUR)))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0)
    assert torch.allclose(seen.opacity[0, 0], alpha, atol=1e-12)
    assert torch.allclose(
        seen.color[0], alpha * torch.tensor([0.2, 0.4, 0.8])[:, None, None].double(), atol=1e-12
    )
    assert torch.allclose(seen.means, torch.full((1, 1, 1, 2), 20.5, dtype=torch.float64))
    reach = math.sqrt(2 * math.log(255 * float(alpha.max())) * (variance + BLUR))
    assert seen.radii.item() == math.ceil(reach)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_two_in_a_row_the_nearer_is_in_front(order: list[int]) -> None:
    """The camera is at x = 2; the order of the list does not matter."""
    places, colors = [[0.3, 0, 0], [-0.3, 0, 0]], [[1, 0, 0], [0, 1, 0]]
    seen, focal = round_ones([places[i] for i in order], 0.2, [0.6, 0.6], [colors[i] for i in order])
    near, far = (0.6 * v / (v + BLUR) for v in ((focal * 0.2 / d) ** 2 for d in (1.7, 2.3)))
    middle = seen.color[0, :, 20, 20]
    assert middle.tolist() == pytest.approx([near, (1 - near) * far, 0], abs=1e-12)
    assert float(seen.opacity[0, 0, 20, 20]) == pytest.approx(1 - (1 - near) * (1 - far), abs=1e-12)


@pytest.mark.parametrize("degree", [0, 3])
def test_every_pair_and_gradient_is_that_of_the_slow_twin(degree: int) -> None:
    scene, views = scattered(2, 12, degree), around(2, 2, (17, 13))
    leaves = [t.requires_grad_() for t in parts(scene)]
    seen = splat(scene, views)
    color, opacity = dense(scene, views)
    assert torch.allclose(seen.color, color, atol=1e-12) and torch.allclose(seen.opacity, opacity, atol=1e-12)
    assert float(opacity.detach().amax()) > 0.7 and float(opacity.detach().amin()) < 0.1
    asked = torch.randn(color.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours = torch.autograd.grad((seen.color * asked).sum() + seen.opacity.square().sum(), leaves)
    theirs = torch.autograd.grad((color * asked).sum() + opacity.square().sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-10) and one.abs().max() > 0


def test_gradients_by_differences() -> None:
    g = torch.Generator().manual_seed(0)
    means = (torch.rand(2, 5, 2, generator=g, dtype=torch.float64) * 7).requires_grad_()
    conics = torch.tensor([0.5, 0.1, 0.3], dtype=torch.float64).expand(2, 5, 3).clone().requires_grad_()
    opacities = (torch.rand(2, 5, generator=g, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    colors = torch.rand(2, 5, 3, generator=g, dtype=torch.float64).requires_grad_()
    depth, visible = torch.rand(2, 5, generator=g), torch.tensor([[True] * 4 + [False], [True] * 5])

    def pictures(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rasterize_shadows(*inputs, depth, visible, 7, 6)

    assert torch.autograd.gradcheck(pictures, (means, conics, opacities, colors))


def test_sums_of_whole_numbers_are_sums() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fixed_point_sum(values)
    assert (found - values.cumsum(0)).abs().max() < 1e-7
    assert torch.equal(found[-1], fixed_point_sum(values.flip(0))[-1])  # in any order
    assert not fixed_point_sum(torch.zeros(3, dtype=torch.float64)).any() and not len(
        fixed_point_sum(values[:0])
    )


def test_states_do_not_mix_and_unseen_ones_make_no_picture() -> None:
    scene = scattered(3, 30, 1, torch.float32)
    views = around(3, 2, (24, 16), torch.float32)
    together = splat(scene, views)
    for w in range(3):
        one = replace(views, viewmats=views.viewmats[w : w + 1], ks=views.ks[w : w + 1])
        alone = splat(Splats(*(t[w : w + 1] for t in parts(scene))), one)
        assert torch.allclose(together.color[2 * w : 2 * w + 2], alone.color, atol=1e-6)
        assert torch.equal(together.radii[w : w + 1], alone.radii)
    leaves = [t.clone().requires_grad_() for t in parts(scene)]
    gone = splat(Splats(leaves[0] + 50, *leaves[1:]), views)
    assert not gone.color.any() and not gone.opacity.any() and not gone.radii.any()
    for grad in torch.autograd.grad(gone.color.sum() + gone.opacity.sum(), leaves):
        assert not grad.any()


def test_the_start_is_a_grey_ball() -> None:
    scene = Gaussians(GaussiansConfig(num_points=300, sh_degree=2))
    params, buffers = scene.init(torch.Generator().manual_seed(0))
    assert params["geometry.features_rest"].shape == (300, 8, 3)
    assert params["geometry.xyz"].norm(dim=1).max() <= scene.config.init_radius
    assert {name for group in scene.groups().values() for name in group} == set(params)
    assert all(t.shape == (300,) and not t.any() for t in buffers.values())
    seen = cameras.orbit(*(torch.tensor([v]) for v in (15.0, 30.0, 2.4, 45.0)))
    spec = PictureSpec(seen, 32, 32, torch.zeros(1))
    picture = scene.render({n: p[None] for n, p in params.items()}, {}, spec)
    assert picture.opacity[0, 0, 16, 16] > 0.5 and picture.opacity[0, 0, 0, 0] == 0
    color = picture.color[0, :, 16, 16] / picture.opacity[0, :, 16, 16]
    assert (color - 0.5).abs().max() < 0.05


def test_a_density_hides_what_its_pictures_hide() -> None:
    """Along a ray through the middle of a round Gaussian it integrates to -log(1 - opacity)."""
    scene = Gaussians(GaussiansConfig(num_points=1))
    params, _ = scene.init(torch.Generator().manual_seed(0))
    params |= {
        "geometry.scaling": torch.full((1, 3), math.log(0.07)),
        "geometry.xyz": torch.tensor([[0.1, 0, -0.2]]),
    }
    params["geometry.opacity"] = torch.tensor([[0.6]]).logit()
    line = torch.linspace(-0.5, 0.5, 2001)
    points = torch.tensor([0.1, 0, -0.2]) + line[:, None] * F.normalize(torch.tensor([1.0, 2, 2]), dim=0)
    density, color = scene.density_and_color({n: p[None] for n, p in params.items()}, points)
    assert float(density.sum() * (line[1] - line[0])) == pytest.approx(-math.log(0.4), rel=5e-3)
    assert density[0] == 0 and (color[0] == 0.5).all()
    expected = params["geometry.features_dc"][0, 0] * spherical_harmonics.C0 + 0.5
    assert torch.allclose(color[1000], expected)
