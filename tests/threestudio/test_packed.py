"""nerfacc's operations on packed samples against its own batched functions, ray by ray, and differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from dreamprop.threestudio.compat.nerfacc import packed

from .draws import uniform

nerfacc = pytest.importorskip("nerfacc")
pytestmark = pytest.mark.usefixtures("nerfacc_on_any_device")
COUNTS = (3, 0, 5, 1, 4)
"""Samples of five rays, one of them without any."""


def rays() -> Tensor:
    return torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))


def by_ray(call: Callable[[slice], Tensor]) -> Tensor:
    """The batched function on each ray alone, one after another."""
    out, first = [], 0
    for count in COUNTS:
        if count:
            out.append(call(slice(first, first + count))[0])
        first += count
    return torch.cat(out)


def test_pack_info() -> None:
    assert packed.pack_info(rays(), 6).tolist() == [[0, 3], [3, 0], [3, 5], [8, 1], [9, 4], [13, 0]]
    assert packed.pack_info(rays()).shape == (5, 2)
    assert packed.pack_info(torch.zeros(0, dtype=torch.long), 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", ["inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod"])
def test_scans(name: str) -> None:
    function = getattr(nerfacc, name)
    x = (uniform(13) + 0.2).requires_grad_()
    info = packed.pack_info(rays(), len(COUNTS))
    torch.testing.assert_close(
        function(x, info), by_ray(lambda at: function(x[at][None])), rtol=0, atol=1e-12
    )
    assert gradcheck(lambda t: function(t, info), (x,))
    assert gradgradcheck(lambda t: function(t, info), (x,))


def test_weights_from_density() -> None:
    starts = uniform(13, seed=1).cumsum(0)
    ends, sigmas = starts + uniform(13, seed=2), (uniform(13, seed=3) * 3).requires_grad_()

    def of(s: Tensor, part: int) -> Tensor:
        return nerfacc.render_weight_from_density(starts, ends, s, ray_indices=rays(), n_rays=len(COUNTS))[
            part
        ]

    for part in range(3):
        twin = by_ray(
            lambda at, part=part: nerfacc.render_weight_from_density(
                starts[at][None], ends[at][None], sigmas[at][None]
            )[part]
        )
        torch.testing.assert_close(of(sigmas, part), twin, rtol=0, atol=1e-12)
        assert gradcheck(lambda s, part=part: of(s, part), (sigmas,))
    ours = torch.autograd.grad(of(sigmas, 0).square().sum(), sigmas)[0]
    twin = by_ray(
        lambda at: nerfacc.render_weight_from_density(starts[at][None], ends[at][None], sigmas[at][None])[0]
    )
    torch.testing.assert_close(ours, torch.autograd.grad(twin.square().sum(), sigmas)[0], rtol=0, atol=1e-12)


def test_weights_from_alpha() -> None:
    """NeuS asks for these."""
    alphas = (uniform(13) * 0.8 + 0.1).requires_grad_()

    def of(a: Tensor) -> Tensor:
        return nerfacc.render_weight_from_alpha(a, ray_indices=rays(), n_rays=len(COUNTS))[0]

    torch.testing.assert_close(
        of(alphas),
        by_ray(lambda at: nerfacc.render_weight_from_alpha(alphas[at][None])[0]),
        rtol=0,
        atol=1e-12,
    )
    assert gradcheck(of, (alphas,)) and gradgradcheck(of, (alphas,))


def test_accumulation_and_visibility() -> None:
    weights, values = uniform(13), uniform(13, 2, seed=1)
    out = nerfacc.accumulate_along_rays(weights, values, rays(), len(COUNTS))
    want = torch.stack([(weights[:, None] * values)[rays() == ray].sum(0) for ray in range(len(COUNTS))])
    torch.testing.assert_close(out, want)
    starts = torch.arange(13.0, dtype=torch.float64)
    sigmas = uniform(13, seed=2) * 2
    seen = nerfacc.render_visibility_from_density(
        starts, starts + 1, sigmas, ray_indices=rays(), n_rays=5, early_stop_eps=0.2, alpha_thre=0.3
    )
    twin = by_ray(
        lambda at: nerfacc.render_visibility_from_density(
            starts[at][None], starts[at][None] + 1, sigmas[at][None], early_stop_eps=0.2, alpha_thre=0.3
        )
    )
    assert torch.equal(seen, twin) and 0 < seen.sum() < 13


def test_no_samples_at_all() -> None:
    nothing = torch.zeros(0, dtype=torch.float32, requires_grad=True)
    weights, _, _ = nerfacc.render_weight_from_density(
        nothing, nothing, nothing, ray_indices=torch.zeros(0, dtype=torch.long), n_rays=3
    )
    out = nerfacc.accumulate_along_rays(weights, None, torch.zeros(0, dtype=torch.long), 3)
    assert out.shape == (3, 1) and not out.any()
    out.sum().backward()
