"""Our splatting against gsplat: what of it runs anywhere, and its pictures where CUDA is."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.gaussians import spherical_harmonics
from dreamprop.scenes.gaussians.projection import BLUR, project
from dreamprop.scenes.gaussians.splats import Splats
from dreamprop.scenes.gaussians.splatting import splat
from dreamprop.scenes.gaussians.with_gsplat import choose, splat_with_gsplat
from tests.scenes.gaussians import around, parts, scattered

gsplat = pytest.importorskip("gsplat", reason="needs dreamprop[gaussians]")


def test_shadows_and_harmonics_are_those_of_its_reference() -> None:
    """Its own implementation in PyTorch, which runs on any device."""
    from gsplat.cuda import _torch_impl as theirs

    scene, views = scattered(2, 50, 3), around(2, 3, (40, 30))
    ours = project(scene, views)
    covariances, _ = theirs._quat_scale_to_covar_preci(scene.quats, scene.scales, True, False, triu=False)
    _, places, depth, conics, compensation = theirs._fully_fused_projection(
        scene.means, covariances, views.viewmats, views.ks, 40, 30, eps2d=BLUR, calc_compensations=True
    )
    xx, xy, yy = ours.covariances.unbind(-1)
    inverse = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None]
    pairs = ((ours.means, places), (ours.depth, depth), (inverse, conics), (ours.compensation, compensation))
    for one, other in pairs:
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)
    towards = F.normalize(torch.randn(2, 50, 3, dtype=torch.float64), dim=-1)
    seen = theirs._spherical_harmonics(spherical_harmonics.MOST, towards, scene.coefficients)
    assert torch.allclose(
        spherical_harmonics.color(scene.coefficients, towards), (seen + 0.5).clamp(min=0), atol=1e-7
    )


def test_the_call_is_one_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments are bound to the signature that is installed, and what it documents to return comes out as ours."""
    scene, views = scattered(2, 20, 1, torch.float32), around(2, 3, (20, 16), torch.float32)
    expected = splat(scene, views)
    signature = inspect.signature(gsplat.rasterization)

    def rasterization(*args: Any, **options: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        given = signature.bind(*args, **options).arguments
        assert given["sh_degree"] == 1 and given["rasterize_mode"] == "antialiased" and not given["packed"]
        assert given["viewmats"].shape == (2, 3, 4, 4) and given["colors"].shape == (2, 20, 4, 3)
        pictures = (t.unflatten(0, (2, 3)).movedim(2, -1) for t in (expected.color, expected.opacity))
        return (
            *pictures,
            {"radii": expected.radii[..., None].expand(-1, -1, -1, 2).int(), "means2d": expected.means},
        )

    monkeypatch.setattr(gsplat, "rasterization", rasterization)
    found = splat_with_gsplat(scene, views)
    for name in ("color", "opacity", "means", "radii"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("degree", [0, 3])
def test_it_sees_the_same(degree: int) -> None:
    """Pictures to what it leaves out (it ends a ray at a transmittance of 1e-4) and single precision."""
    device = torch.device("cuda")
    leaves = [t.to(device).requires_grad_() for t in parts(scattered(2, 200, degree, torch.float32))]
    scene, views = Splats(*leaves), around(2, 2, (48, 40), torch.float32)
    views = replace(views, viewmats=views.viewmats.to(device), ks=views.ks.to(device))
    assert choose(device) is splat_with_gsplat
    ours, theirs = splat(scene, views), splat_with_gsplat(scene, views)
    for one, other in (
        (ours.color, theirs.color),
        (ours.opacity, theirs.opacity),
        (ours.means, theirs.means),
    ):
        assert one.shape == other.shape and (one - other).abs().max() < 2e-3
    asked = torch.randn_like(ours.color)
    grads = [
        torch.autograd.grad((seen.color * asked).sum() + seen.opacity.sum(), (*leaves, seen.means))
        for seen in (ours, theirs)
    ]
    for one, other in zip(*grads, strict=True):
        assert (one - other).norm() < 1e-2 * other.norm()
