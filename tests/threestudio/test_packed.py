"""nerfacc's operations on packed samples against its own batched functions, a slow ray marcher, and differences."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from dreamprop.threestudio.compat.nerfacc import kernel_table, packed

nerfacc = pytest.importorskip("nerfacc")


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """nerfacc with its kernels replaced, as `install` does."""
    cuda = importlib.import_module("nerfacc.cuda")
    for name, kernel in kernel_table.kernels().items():
        assert hasattr(cuda, name)
        monkeypatch.setattr(cuda, name, kernel)
    for name in ("nerfacc", "nerfacc.pack", "nerfacc.volrend"):
        monkeypatch.setattr(importlib.import_module(name), "pack_info", packed.pack_info)
    yield


COUNTS = (3, 0, 5, 1, 4)
"""Samples of five rays, one of them without any."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    x = (draw(13) + 0.2).requires_grad_()
    info = packed.pack_info(rays(), len(COUNTS))
    torch.testing.assert_close(
        function(x, info), by_ray(lambda at: function(x[at][None])), rtol=0, atol=1e-12
    )
    assert gradcheck(lambda t: function(t, info), (x,))
    assert gradgradcheck(lambda t: function(t, info), (x,))


def test_weights_from_density() -> None:
    starts = draw(13, seed=1).cumsum(0)
    ends, sigmas = starts + draw(13, seed=2), (draw(13, seed=3) * 3).requires_grad_()

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
    alphas = (draw(13) * 0.8 + 0.1).requires_grad_()

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
    weights, values = draw(13), draw(13, 2, seed=1)
    out = nerfacc.accumulate_along_rays(weights, values, rays(), len(COUNTS))
    want = torch.stack([(weights[:, None] * values)[rays() == ray].sum(0) for ray in range(len(COUNTS))])
    torch.testing.assert_close(out, want)
    starts = torch.arange(13.0, dtype=torch.float64)
    sigmas = draw(13, seed=2) * 2
    seen = nerfacc.render_visibility_from_density(
        starts, starts + 1, sigmas, ray_indices=rays(), n_rays=5, early_stop_eps=0.2, alpha_thre=0.3
    )
    twin = by_ray(
        lambda at: nerfacc.render_visibility_from_density(
            starts[at][None], starts[at][None] + 1, sigmas[at][None], early_stop_eps=0.2, alpha_thre=0.3
        )
    )
    assert torch.equal(seen, twin) and 0 < seen.sum() < 13


def test_rays_and_boxes() -> None:
    """Against nerfacc's own function for any device; parallel rays by hand."""
    grid = importlib.import_module("nerfacc.grid")
    origins, directions = draw(200, 3).float() * 6 - 3, draw(200, 3, seed=1).float() - 0.5
    boxes = torch.tensor([[-1.0, -1, -1, 1, 1, 1], [-2.0, 0, -0.5, 0, 1, 2]])
    found = nerfacc.ray_aabb_intersect(origins, directions, boxes, 0.1, 4.0, -7.0)
    want = grid._ray_aabb_intersect(origins, directions, boxes, 0.1, 4.0, -7.0)
    assert torch.equal(found[2], want[2]) and 10 < found[2].sum() < 390
    # nerfacc's clamps both ends to both planes; they differ only where the box is beyond a plane altogether
    both = found[2] & (found[0] <= found[1])
    for mine, theirs in zip(found[:2], want[:2], strict=True):
        torch.testing.assert_close(mine[both], theirs[both])
    assert (found[0][~found[2]] == -7).all()

    along = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    start = torch.tensor([[-3.0, 0.5, 0.5], [-3, 1.5, 0.5], [0, 0, 3]])
    enter, leave, hits = nerfacc.ray_aabb_intersect(start, along, boxes[:1])
    assert hits[:, 0].tolist() == [True, False, False]
    assert (float(enter[0, 0]), float(leave[0, 0])) == (2, 4)


def slow_march(
    origin: list[float],
    way: list[float],
    grids: list[tuple[float, Tensor]],
    near: float,
    far: float,
    step: float,
) -> list[tuple[float, float]]:
    """One ray, one step at a time, through cubes about the origin: the smallest that holds a step's middle counts."""
    kept, number = [], 0
    while near + number * step < far:
        begin, end = near + number * step, near + (number + 1) * step
        number += 1
        middle = (begin + end) / 2
        point = [o + d * middle for o, d in zip(origin, way, strict=True)]
        for half, full in grids:
            if max(map(abs, point)) < half and middle < far:
                size = full.shape[0]
                cell = [math.floor((p + half) / (2 * half) * size) for p in point]
                if full[cell[0], cell[1], cell[2]]:
                    kept.append((begin, end))
                break
    return kept


@pytest.mark.parametrize("levels", [1, 2])
def test_marching_is_the_slow_march(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator), dim=-1) * 2.5
    ways = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator) * 0.4 - origins, dim=-1)
    origins[0], ways[0] = torch.tensor([2.0, 0.3, 0.3]), torch.tensor([-1.0, 0, 0])  # parallel to two axes
    origins[1] = 0.1  # from inside
    ways[2] = -ways[2]  # away from the grid
    full = torch.rand(levels, 8, 8, 8, generator=generator) < 0.3
    boxes = torch.stack([torch.tensor([-1.0, -1, -1, 1, 1, 1]) * 2**i for i in range(levels)])
    near = torch.rand(60, generator=generator) * 0.3
    far = torch.full_like(near, 3.1)
    intervals, samples, ended = nerfacc.traverse_grids(
        origins, ways, full, boxes, near_planes=near, far_planes=far, step_size=0.05
    )
    begins, ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    torch.testing.assert_close(samples.vals, (begins + ends) / 2)
    assert samples.packed_info[:, 1].sum() == len(begins) == len(samples.ray_indices)
    differences = 0
    for ray in range(60):
        grids = [(float(2**i), full[i]) for i in range(levels)]
        want = slow_march(origins[ray].tolist(), ways[ray].tolist(), grids, float(near[ray]), 3.1, 0.05)
        mine = begins[samples.ray_indices == ray].tolist()
        # a middle may fall on another side of a cell's border in single precision
        differences += len({round(b, 3) for b, _ in want} ^ {round(b, 3) for b in mine})
    assert differences <= 2 and len(begins) > 200
    # edges that two steps share are stored once
    assert (intervals.is_left & intervals.is_right).any()
    assert len(intervals.vals) < 2 * len(begins)
    assert intervals.packed_info[:, 1].sum() == len(intervals.vals)
    assert (ended >= near).all() and (ended < 3.2).all()


def test_marching_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamprop.threestudio.compat.nerfacc import traversal

    def ask() -> tuple[Tensor, Tensor]:
        origins = torch.tensor([[2.0, 0.1, 0.2]]).repeat(9, 1)
        ways = torch.nn.functional.normalize(torch.tensor([[-1.0, 0.01, 0.02]]) * torch.ones(9, 1), dim=-1)
        full = torch.ones(1, 4, 4, 4, dtype=torch.bool)
        out = nerfacc.traverse_grids(
            origins, ways, full, torch.tensor([[-1.0, -1, -1, 1, 1, 1]]), step_size=0.1
        )
        return out[1].vals, out[1].ray_indices

    whole = ask()
    monkeypatch.setattr(traversal, "CHUNK", 50)
    for one, two in zip(whole, ask(), strict=True):
        assert torch.equal(one, two)


def test_marching_says_what_it_does_not_do() -> None:
    box = torch.tensor([[-1.0, -1, -1, 1, 1, 1]])
    full = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="cone_angle 0"):
        nerfacc.traverse_grids(torch.zeros(1, 3), torch.eye(3)[:1], full, box, step_size=0.1, cone_angle=0.1)


def test_estimator_of_an_empty_and_a_full_grid() -> None:
    estimator = nerfacc.OccGridEstimator(roi_aabb=[-1.0, -1, -1, 1, 1, 1], resolution=8)
    origins, ways = torch.tensor([[3.0, 0, 0], [3, 0, 5]]), torch.tensor([[-1.0, 0, 0], [-1, 0, 0]])
    for full, count in ((False, 0), (True, 20)):
        estimator.binaries.fill_(full)
        found = estimator.sampling(
            origins, ways, sigma_fn=lambda a, b, ray: torch.ones_like(a), render_step_size=0.1, alpha_thre=0.0
        )
        assert len(found[0]) == count and not found[0].any()
    assert float(found[1].min()) == pytest.approx(2, abs=0.06) and float(found[2].max()) == pytest.approx(
        4, abs=0.06
    )


def slow_resample(
    edges: list[float], cdf: list[float], count: int, bias: float
) -> tuple[list[float], list[float]]:
    """New edges and samples of one ray."""
    samples = []
    for number in range(count):
        u = cdf[0] + (number + bias) * (cdf[-1] - cdf[0]) / count
        right = next((i for i, c in enumerate(cdf) if c > u), len(cdf) - 1)
        left = max(right - 1, 0)
        wide = cdf[right] - cdf[left]
        share = 0.5 if wide < 1e-10 else (u - cdf[left]) / wide
        samples.append(edges[left] + share * (edges[right] - edges[left]))
    middle = [(a + b) / 2 for a, b in pairwise(samples)]
    first = max(2 * samples[0] - middle[0], edges[0])
    last = min(2 * samples[-1] - middle[-1], edges[-1])
    return [first, *middle, last], samples


@pytest.mark.parametrize("form", ["batched", "packed in", "packed out"])
def test_importance_sampling(form: str) -> None:
    edges = draw(4, 6).cumsum(-1)
    cdf = torch.cat([torch.zeros(4, 1), draw(4, 5, seed=1).cumsum(-1)], -1)
    cdf = cdf / cdf[:, -1:]
    cdf[0, 2] = cdf[0, 1]  # a bin that nothing is in
    info = torch.tensor([[0, 6], [6, 6], [12, 6], [18, 6]])
    counts = [5, 5, 5, 5] if form != "packed out" else [5, 2, 0, 3]
    if form == "batched":
        intervals, samples = nerfacc.importance_sampling(nerfacc.RayIntervals(vals=edges), cdf, 5)
        assert intervals.vals.shape == (4, 6) and samples.vals.shape == (4, 5)
    else:
        flat = nerfacc.RayIntervals(vals=edges.flatten(), packed_info=info)
        asked = 5 if form == "packed in" else torch.tensor(counts)
        intervals, samples = nerfacc.importance_sampling(flat, cdf.flatten(), asked)
    want = [
        slow_resample(e, c, n, 0.5) for e, c, n in zip(edges.tolist(), cdf.tolist(), counts, strict=True) if n
    ]
    all_edges = torch.tensor([v for new, _ in want for v in new], dtype=torch.float64)
    torch.testing.assert_close(intervals.vals.flatten(), all_edges, rtol=0, atol=1e-12)
    all_samples = torch.tensor([v for _, new in want for v in new], dtype=torch.float64)
    torch.testing.assert_close(samples.vals.flatten(), all_samples, rtol=0, atol=1e-12)
    if form == "packed out":
        assert intervals.packed_info[:, 1].tolist() == [6, 3, 0, 4]
        assert int(intervals.is_left.sum()) == int(intervals.is_right.sum()) == 10
        assert samples.ray_indices.tolist() == [0] * 5 + [1] * 2 + [3] * 3


def test_stratified_draws_once_a_ray() -> None:
    edges = torch.linspace(0, 1, 5).repeat(3, 1)
    torch.manual_seed(0)
    _, one = nerfacc.importance_sampling(nerfacc.RayIntervals(vals=edges), edges, 4, True)
    torch.manual_seed(0)
    _, two = nerfacc.importance_sampling(nerfacc.RayIntervals(vals=edges), edges, 4, True)
    assert torch.equal(one.vals, two.vals)
    step = one.vals[:, 1:] - one.vals[:, :-1]
    torch.testing.assert_close(step, torch.full_like(step, 0.25))
    assert len(set(one.vals[:, 0].tolist())) == 3


def test_searchsorted() -> None:
    keys, values = draw(3, 5).sort(-1).values, draw(3, 4, seed=1) * 1.4 - 0.2
    left, right = nerfacc.searchsorted(nerfacc.RayIntervals(vals=keys), nerfacc.RayIntervals(vals=values))
    for ray in range(3):
        for place in range(4):
            after = next((i for i, k in enumerate(keys[ray]) if k > values[ray, place]), 4)
            assert (int(left[ray, place]), int(right[ray, place])) == (max(after - 1, 0), after)
    flat = nerfacc.searchsorted(
        nerfacc.RayIntervals(
            vals=torch.tensor([0.0, 1, 0, 1, 2]), packed_info=torch.tensor([[0, 2], [2, 3]])
        ),
        nerfacc.RayIntervals(vals=torch.tensor([0.5, 1.5, 2.5]), packed_info=torch.tensor([[0, 1], [1, 2]])),
    )
    assert [t.tolist() for t in flat] == [[0, 3, 3], [1, 4, 4]]  # the example in nerfacc's documentation


def test_no_samples_at_all() -> None:
    nothing = torch.zeros(0, dtype=torch.float32, requires_grad=True)
    weights, _, _ = nerfacc.render_weight_from_density(
        nothing, nothing, nothing, ray_indices=torch.zeros(0, dtype=torch.long), n_rays=3
    )
    out = nerfacc.accumulate_along_rays(weights, None, torch.zeros(0, dtype=torch.long), 3)
    assert out.shape == (3, 1) and not out.any()
    out.sum().backward()
