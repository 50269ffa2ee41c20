"""nerfacc's rays through boxes and occupancy grids against its own function and a slow ray marcher."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from .draws import uniform

nerfacc = pytest.importorskip("nerfacc")
pytestmark = pytest.mark.usefixtures("nerfacc_on_any_device")


def test_rays_and_boxes() -> None:
    """Against nerfacc's own function for any device; parallel rays by hand."""
    grid = importlib.import_module("nerfacc.grid")
    origins, directions = uniform(200, 3).float() * 6 - 3, uniform(200, 3, seed=1).float() - 0.5
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
