"""Rendering against closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.background import soft, solid
from dreamprop.scenes.cameras import orbit
from dreamprop.scenes.density import Density
from dreamprop.scenes.field import Sampled, Tensors, stack
from dreamprop.scenes.hash_grid import OCCUPANCY, HashGrid
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.shading import Shading, shade
from dreamprop.scenes.volume_grid import COLOR, DENSITY, VoxelGrid
from dreamprop.scenes.volume_rendering import prune_density, render


@dataclass(frozen=True)
class Fog(VoxelGrid):
    """Constant density and colour in the ball, or in a box inside it, as a function of the point."""

    sigma: float = 1.0
    half: float = 10.0

    def query(self, params: Tensors, points: Tensor, normals: bool = False) -> Sampled:
        inside = (points.abs() <= self.half).all(-1)
        color = torch.tensor([0.2, 0.5, 0.9]).expand_as(points)
        return Sampled(inside * self.sigma, color, F.normalize(points, dim=-1) if normals else None)


def picture(
    field: VoxelGrid, size: int = 33, samples: int = 400, orientation: bool = False, **options: object
) -> object:
    params = stack([{"anything": torch.zeros(1)}]) if isinstance(field, Fog) else options.pop("params")
    one, shift = torch.ones(1), torch.full((1, size * size), 0.5)
    front = orbit(0 * one, 0 * one, 2.4 * one, 47 * one)
    spec = PictureSpec(front, size, size, shift, orientation=orientation)
    return render(field, params, {}, spec, samples=samples, **options)  # type: ignore[arg-type]


def test_a_ball_of_fog_follows_beer_and_lambert() -> None:
    size, sigma = 33, 0.8
    found = picture(Fog(sigma=sigma), size, depth=True)
    half = math.tan(math.radians(47 / 2))
    pixel = ((torch.arange(size) + 0.5) / size * 2 - 1) * half
    tangent = (pixel[:, None].square() + pixel[None].square()).sqrt()  # of the angle to the axis
    miss = 2.4 * tangent / (1 + tangent.square()).sqrt()  # distance of the ray from the centre
    chord = 2 * (1 - miss.square()).clamp(min=0).sqrt()
    expected = 1 - torch.exp(-sigma * chord)
    # a chord is a whole number of samples of length 2 / 400: at most one is missed or won
    assert (found.opacity[0, 0] - expected).abs().max() < sigma * 2 / 400
    color = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1)
    assert torch.allclose(found.color[0], color * found.opacity[0], atol=1e-5)
    # mean distance of the light from the middle pixel: the integral of t sigma exp(-sigma t) from the near face
    chord = 2.0
    mean = 1.4 * (1 - math.exp(-sigma * chord)) + 1 / sigma - math.exp(-sigma * chord) * (chord + 1 / sigma)
    assert found.depth[0, 0, 16, 16].item() == pytest.approx(mean, abs=0.01)


def test_a_box_of_fog_has_its_thickness() -> None:
    found = picture(Fog(sigma=2.0, half=0.25), 33)
    assert found.opacity[0, 0, 16, 16].item() == pytest.approx(1 - math.exp(-2.0 * 0.5), abs=2.0 * 2 / 400)
    assert found.opacity[0, 0, 0, 0] == 0


def test_the_background_is_seen_through() -> None:
    found = picture(Fog(sigma=1.0), 9)
    white = found.over(solid([1.0, 1.0, 1.0], torch.device("cpu")))
    assert torch.allclose(white, found.color + 1 - found.opacity)
    behind = soft(torch.rand(5, 5, generator=torch.Generator().manual_seed(0)), 9)
    assert behind.shape == (5, 3, 9, 1) and behind.min() >= 0 and behind.max() <= 1
    assert found.over(behind[:1]).shape == (1, 3, 9, 9)


def blob() -> tuple[VoxelGrid, Tensors]:
    field = VoxelGrid(20, density=Density(blob_scale=20.0, blob_std=0.4))
    params, _ = field.init(torch.Generator().manual_seed(0))
    params[COLOR] = torch.randn(20, 20, 20, 3, generator=torch.Generator().manual_seed(1))
    return field, params


def test_skipping_empty_cells_changes_next_to_nothing() -> None:
    field, params = blob()
    stacked = stack([params])
    whole = picture(field, 16, 48, params=stacked)
    # what is skipped adds up to at most 48 samples of opacity 1e-4
    skipped = picture(field, 16, 48, params=stacked, prune_alpha=1e-4)
    assert (whole.color - skipped.color).abs().max() < 48e-4
    assert (whole.color - skipped.color).abs().max() > 0


def beginning() -> tuple[HashGrid, Tensors, Tensors]:
    """The hash grid that enters step 0 of the configs for Stable Diffusion and IF, with fewer levels."""
    field = HashGrid(
        levels=2, log2_rows=8, radius=2.0, density=Density("softplus", 1.0, "blob_magic3d", 10.0, 0.5)
    )
    params, buffers = field.init(torch.Generator().manual_seed(0))
    return field, stack([params]), stack([buffers])


def seen(
    field: VoxelGrid | HashGrid, params: Tensors, buffers: Tensors, samples: int, prune: float
) -> Rendered:
    size, one = 16, torch.ones(1)
    cameras = orbit(10 * one, 30 * one, 1.9 * field.radius * one, 47 * one)
    with torch.no_grad():
        spec = PictureSpec(cameras, size, size, torch.full((1, size * size), 0.5))
        return render(field, params, buffers, spec, samples=samples, prune_alpha=prune)


def test_what_is_skipped_does_not_depend_on_the_number_of_samples() -> None:
    """At step 0, where matter is thin; a cut by opacity a sample hid an optical depth of 0.01 * 512."""
    field, params, buffers = beginning()
    occupied = field.occupancy_mask(params, buffers, prune_density(0.01, field.radius))
    assert occupied is not None and occupied.float().mean().item() == pytest.approx(0.057, abs=0.002)
    for scene in ((field, params, buffers), (blob()[0], stack([blob()[1]]), {})):
        few, many = (seen(*scene, samples, 0.01) for samples in (32, 512))
        whole = seen(*scene, 512, 0.0)
        assert whole.opacity.max() > 0.9
        # of skipping: what a cell may hide of a diameter; of 32 samples: the quadrature of a smooth blob
        assert (many.opacity - whole.opacity).abs().max() < 2e-2
        assert (few.opacity - many.opacity).abs().max() < 2e-2
        assert (few.color - many.color).abs().max() < 2e-2


@pytest.mark.parametrize("thin", [1.0, 1e-3])
def test_a_scene_that_is_thin_everywhere_is_not_skipped_as_a_whole(thin: float) -> None:
    """The cut is never above the mean of the field, as in nerfacc's occupancy grids."""
    hashed, params, buffers = beginning()
    buffers = {OCCUPANCY: buffers[OCCUPANCY] * thin}
    voxels, dense = (
        VoxelGrid(16, density=Density(scale=thin, blob_scale=2.0)),
        stack([VoxelGrid(16).init(torch.Generator())[0]]),
    )
    for field, own, memory in ((hashed, params, buffers), (voxels, dense, {})):
        for density in (prune_density(0.01, field.radius), 1e6):
            occupied = field.occupancy_mask(own, memory, density)
            assert occupied is not None and 0.02 < occupied.float().mean() < 0.8


def test_nothing_at_all_is_empty_and_has_a_gradient() -> None:
    field, params = blob()
    params[DENSITY] = params[DENSITY] - 100
    leaf = {n: p.requires_grad_() for n, p in stack([params]).items()}
    found = picture(field, 8, 16, params=leaf, prune_alpha=1e-3)
    assert found.opacity.max() == 0
    for grad in torch.autograd.grad(found.color.sum() + found.opacity.sum(), list(leaf.values())):
        assert torch.isfinite(grad).all()


def test_windows_render_as_their_states() -> None:
    field, params = blob()
    others = [{n: p + 0.2 * i for n, p in params.items()} for i in range(3)]
    cameras = orbit(
        torch.tensor([0.0, 30, -5]),
        torch.tensor([0.0, 120, 250]),
        torch.full((3,), 2.3),
        torch.full((3,), 45.0),
    )
    shift = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    spec = PictureSpec(cameras, 8, 8, shift)
    together = render(field, stack(others), {}, spec, samples=32, prune_alpha=1e-3)
    for i, one in enumerate(others):
        view = orbit(*(getattr(cameras, n)[i : i + 1] for n in ("elevation", "azimuth", "distance", "fovy")))
        spec = PictureSpec(view, 8, 8, shift[i : i + 1])
        alone = render(field, stack([one]), {}, spec, samples=32, prune_alpha=1e-3)
        assert torch.allclose(alone.color[0], together.color[i], atol=1e-5)
        assert torch.allclose(alone.opacity[0], together.opacity[i], atol=1e-5)


def test_light_falls_by_lambert() -> None:
    light = Shading(
        light=torch.tensor([[0.0, 0, 2]]), ambient=torch.full((1, 3), 0.1), diffuse=torch.full((1, 3), 0.9),
        textureless=torch.tensor([False]),
    )  # fmt: skip
    up, tilted, under = [0.0, 0, 1], [0.0, math.sin(1.0), math.cos(1.0)], [0.0, 0, -1]
    normal = torch.tensor([[up, tilted, under]])
    albedo = torch.tensor([0.5, 1.0, 0.2]).expand(1, 3, 3)
    found = shade(light, albedo, normal, torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.long))
    for row, facing in enumerate((1.0, math.cos(1.0), 0.0)):
        assert torch.allclose(found[0, row], albedo[0, row] * (0.1 + 0.9 * facing), atol=1e-6)
    white = Shading(light.light, light.ambient, light.diffuse, torch.tensor([True]))
    found = shade(white, albedo, normal, torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.long))
    assert torch.allclose(found[0, 0], torch.ones(3))


def test_a_convex_body_has_no_normals_that_face_away_in_front() -> None:
    """Dense fog whose normals are radial: only its front is seen, and there they face the camera."""
    dense = picture(Fog(sigma=200.0), 17, orientation=True)
    thin = picture(Fog(sigma=0.2), 17, orientation=True)
    assert dense.orientation[0] < 1e-3 < thin.orientation[0]
