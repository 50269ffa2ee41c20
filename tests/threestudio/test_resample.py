"""nerfacc's importance sampling along rays against a slow twin, one sample after another."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from .draws import uniform

nerfacc = pytest.importorskip("nerfacc")
pytestmark = pytest.mark.usefixtures("nerfacc_on_any_device")


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
    edges = uniform(4, 6).cumsum(-1)
    cdf = torch.cat([torch.zeros(4, 1), uniform(4, 5, seed=1).cumsum(-1)], -1)
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
    keys, values = uniform(3, 5).sort(-1).values, uniform(3, 4, seed=1) * 1.4 - 0.2
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
