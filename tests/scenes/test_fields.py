"""Fields: lookups against slow twins, normals of analytic densities, occupancy, growth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.scenes.cameras import orbit
from dreamprop.scenes.density import Density
from dreamprop.scenes.field import stack
from dreamprop.scenes.hash_grid import OCCUPANCY, TABLE, HashGrid
from dreamprop.scenes.rendered import PictureSpec
from dreamprop.scenes.volume_grid import COLOR, DENSITY, VoxelGrid
from dreamprop.scenes.volume_rendering import prune_density, render


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball(count: int, states: int = 1) -> Tensor:
    """Points [states, count, 3] well inside the unit ball."""
    return (torch.rand(states, count, 3, generator=gen(7)) * 2 - 1) * 0.55


def test_density_and_its_blob() -> None:
    points = torch.tensor([[0.0, 0, 0], [0.3, 0, 0.4]])
    cone = Density("softplus", 2.0, "blob_magic3d", 10.0, 0.5)
    assert torch.allclose(cone.offset(points), torch.tensor([10.0, 0.0]), atol=1e-5)
    bell = Density("exp", 2.0, "blob_dreamfusion", 5.0, 0.5)
    assert torch.allclose(bell.offset(points), 5 * torch.tensor([0.0, -0.5]).exp())
    assert torch.allclose(bell.of(torch.tensor([1.0])), 2 * torch.tensor([1.0]).exp())
    assert not Density(bias="none").offset(points).any()


def test_voxel_normals_of_a_plane_and_of_a_blob() -> None:
    plain = VoxelGrid(12, density=Density(bias="none"))
    down = F.normalize(torch.tensor([1.0, -2.0, 0.5]), dim=0)
    params = {
        DENSITY: (plain.vertices(12, torch.device("cpu")) @ -down)[None],
        COLOR: torch.zeros(1, 12, 12, 12, 3),
    }
    normal = plain.query(params, ball(50), normals=True).normal
    assert normal is not None and torch.allclose(normal, down.expand_as(normal), atol=1e-5)
    # a Gaussian blob falls off along the radius; 32 vertices bend it by less than a tenth
    blob = VoxelGrid(32, density=Density(bias="blob_dreamfusion", blob_std=0.7))
    params = stack([blob.init(gen())[0]])
    points = ball(200)
    points = points[:, points[0].norm(dim=-1) > 0.2]
    normal = blob.query(params, points, normals=True).normal
    assert normal is not None and ((normal * F.normalize(points, dim=-1)).sum(-1) > 0.99).all()


def test_hash_normals_are_unit_and_point_down_the_density() -> None:
    field = HashGrid(levels=2, density=Density(bias="blob_dreamfusion", blob_scale=5.0, blob_std=0.7))
    params = stack([field.init(gen())[0]])
    points = ball(200)
    points = points[:, points[0].norm(dim=-1) > 0.2]
    normal = field.query(params, points, normals=True).normal
    assert normal is not None and torch.allclose(normal.norm(dim=-1), torch.ones(1), atol=1e-5)
    assert ((normal * F.normalize(points, dim=-1)).sum(-1) > 0.98).all()


def test_hash_encoding_has_a_slow_twin() -> None:
    """One level, state, point and corner at a time, by the paper's words: dense while it fits, hashed above."""
    field = HashGrid(levels=3, features=2, log2_rows=8, coarsest=4, growth=2.0)
    assert field.sides == [4, 8, 16] and field.rows == [64, 256, 256]
    table = torch.randn(2, sum(field.rows), 2, generator=gen())
    points = ball(5, states=2)
    found = field.encode(table, points)
    for w in range(2):
        for m in range(5):
            first = 0
            for level, (side, rows) in enumerate(zip(field.sides, field.rows, strict=True)):
                at = ((points[w, m] + 1) / 2 * (side - 1)).tolist()
                low = [int(a) for a in at]
                total = torch.zeros(2)
                for corner in range(8):
                    offset = [corner >> 2 & 1, corner >> 1 & 1, corner & 1]
                    x, y, z = (i + o for i, o in zip(low, offset, strict=True))
                    place = (x * side + y) * side + z
                    if side**3 > rows:
                        place = (x ^ (y * 2654435761) ^ (z * 805459861)) % rows
                    share = 1.0
                    for a, i, o in zip(at, low, offset, strict=True):
                        share *= (a - i) if o else 1 - (a - i)
                    total += share * table[w, first + place]
                assert torch.allclose(found[w, m, 2 * level : 2 * level + 2], total, atol=1e-4)
                first += rows


@pytest.mark.parametrize("field", [VoxelGrid(8), HashGrid(levels=2)])
def test_states_do_not_mix(field: VoxelGrid | HashGrid) -> None:
    states = [field.init(gen(s))[0] for s in range(3)]
    for s in states:
        for name in s:
            s[name] += torch.randn(s[name].shape, generator=gen(5)) * 0.1
    params = {n: p.requires_grad_() for n, p in stack(states).items()}
    points = ball(300, states=3)
    together = field.query(params, points)
    for i, s in enumerate(states):
        alone = field.query(stack([s]), points[i : i + 1])
        assert torch.allclose(alone.density[0], together.density[i], rtol=1e-5, atol=1e-6)
        assert torch.allclose(alone.color[0], together.color[i], atol=1e-6)
    for p in torch.autograd.grad(together.density[1].sum() + together.color[1].sum(), list(params.values())):
        assert not p[0].any() and not p[2].any() and p[1].any()


def test_empty_cells_of_a_voxel_grid_are_empty() -> None:
    field = VoxelGrid(16, density=Density(blob_scale=10.0))
    params = stack([field.init(gen())[0]])
    params[DENSITY] += torch.randn(params[DENSITY].shape, generator=gen(1)) * 3
    occupied = field.occupancy_mask(params, {}, 0.5)
    assert occupied is not None and occupied.shape == (1, 15, 15, 15)
    points = torch.rand(1, 4000, 3, generator=gen(2)) * 2 - 1
    x, y, z = ((points[0] + 1) / 2 * 15).long().t()
    found = field.query(params, points).density[0]
    assert (found[~occupied[0, x, y, z]] <= 0.5).all() and (found > 0.5).any()
    assert 0.02 < (~occupied).float().mean() < 0.98


def test_occupancy_of_a_hash_grid_is_refreshed_at_its_steps() -> None:
    field = HashGrid(levels=2, cells=8, density=Density(blob_scale=10.0))
    params, buffers = field.init(gen())
    full = field.occupancy_mask(stack([params]), stack([buffers]), 1.0)
    assert full is not None and full[0, 4, 4, 4] and not full[0, 0, 0, 0]
    assert field.update_occupancy(params, buffers, 15, gen()) is buffers
    old = buffers[OCCUPANCY].clone()
    emptied = {n: p.clone() for n, p in params.items()}
    emptied["geometry.network.1"][:, 0] = 0
    emptied[TABLE] += 1
    fresh = field.update_occupancy(emptied, buffers, 16, gen(3))[OCCUPANCY]
    assert torch.equal(buffers[OCCUPANCY], old)  # nothing in place
    assert (fresh >= old * field.fade).all()
    assert torch.equal(fresh, field.update_occupancy(emptied, buffers, 16, gen(3))[OCCUPANCY])


def test_growth_keeps_what_is_trilinear() -> None:
    field = VoxelGrid(5)
    at = field.vertices(5, torch.device("cpu"))
    params = {DENSITY: at[..., 0] * 2 - at[..., 1], COLOR: at * 3}
    moments = {f"{n}/{m}": p.square() for n, p in params.items() for m in ("exp_avg", "exp_avg_sq")}
    moments["counter"] = torch.tensor(3.0)
    grown, remembered = field.grow(params, moments, 9)
    finer = field.vertices(9, torch.device("cpu"))
    assert torch.allclose(grown[DENSITY], finer[..., 0] * 2 - finer[..., 1], atol=1e-5)
    assert torch.allclose(grown[COLOR], finer * 3, atol=1e-5)
    for name in params:
        for moment in ("exp_avg", "exp_avg_sq"):
            key = f"{name}/{moment}"
            assert remembered[key].shape == grown[name].shape and (remembered[key] >= 0).all()
            corner = (slice(None, None, 2),) * 3
            assert torch.allclose(
                remembered[key][corner], moments[key], atol=1e-5
            )  # old vertices keep their values
    assert remembered["counter"] == 3


def test_roughness_is_zero_for_a_constant_and_known_for_a_ramp() -> None:
    field = VoxelGrid(4)
    params = {DENSITY: torch.ones(1, 4, 4, 4), COLOR: torch.ones(1, 4, 4, 4, 3)}
    assert field.total_variation(params) == 0
    params[DENSITY] = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 4) * 0.5
    assert field.total_variation(params).item() == pytest.approx(0.25)


def test_a_result_skips_more_of_a_hash_grid_to_no_visible_loss() -> None:
    """Than a run does, which remembers its last refreshes; against pictures that skip nothing."""
    field = HashGrid(density=Density(blob_scale=3.0, blob_std=0.35, scale=4.0))
    params, buffers = field.init(gen())
    params[TABLE] = torch.randn(params[TABLE].shape, generator=gen(1)) * 0.5
    for step in (16, 32, 48):
        buffers = field.update_occupancy(params, buffers, step, gen(step))
    stacked, density = stack([params]), prune_density(0.01, field.radius)
    final = field.final_buffers(stacked, stack([buffers]))
    masks = [field.occupancy_mask(stacked, told, density) for told in (final, stack([buffers]))]
    assert masks[0].float().mean() < 0.8 * masks[1].float().mean()
    one = torch.ones(1)
    spec = PictureSpec(orbit(25 * one, 0 * one, 2.4 * one, 47 * one), 64, 64, torch.full((1, 64 * 64), 0.5))
    less, everything = (
        render(field, stacked, final, spec, samples=96, prune_alpha=alpha).over(torch.tensor(0.6))
        for alpha in (0.01, 0.0)
    )
    assert everything.std() > 0.01 and (less - everything).square().mean() < 1e-5  # 50 dB
