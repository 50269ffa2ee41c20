"""The procedural world: closed-form renders, view words, captions, and draws that depend on their key alone."""

import math
from dataclasses import replace

import pytest
import torch

from dreamprop.prior import world
from dreamprop.prior.solids import SOLIDS, pair
from dreamprop.prior.vocabulary import PRIMITIVES, RELATIONS, SHAPES, parse
from dreamprop.rng import generator

TINY = replace(world.SMALL, size=16)


def look(parts, elevation=0.0, azimuth=0.0, size=64):
    one = torch.ones(1)
    origin, direction = world.cameras(elevation * one, azimuth * one, 2.4 * one, 47.0 * one, size)
    hit, normal, part = world.trace(parts, origin[0], direction[0])
    return hit.view(size, size), normal.view(size, size, 3), part.view(size, size)


def test_a_sphere_covers_its_solid_angle_and_its_normals_are_radial():
    hit, normal, _ = look(SOLIDS["sphere"], size=128)
    half = math.tan(math.radians(47 / 2))
    silhouette = math.tan(math.asin(0.68 / 2.4)) / half  # radius of the disc in half picture sides
    assert hit.float().mean().item() == pytest.approx(math.pi * silhouette**2 / 4, rel=0.01)
    middle = normal[63:65, 63:65].mean((0, 1))
    assert torch.allclose(middle, torch.tensor([1.0, 0.0, 0.0]), atol=0.02)  # the camera looks from +x


def test_fronts_face_plus_x():
    carrot = 2
    assert (look(SOLIDS["snowman"], azimuth=0)[2] == carrot).any()
    assert not (
        (look(SOLIDS["snowman"], azimuth=180)[2] == carrot) & look(SOLIDS["snowman"], azimuth=180)[0]
    ).any()
    door = 2
    assert ((look(SOLIDS["house"])[2] == door) & look(SOLIDS["house"])[0]).any()
    assert not ((look(SOLIDS["house"], azimuth=180)[2] == door) & look(SOLIDS["house"], azimuth=180)[0]).any()


@pytest.mark.parametrize("name", SHAPES)
def test_every_solid_stays_inside_the_unit_ball_and_is_seen(name):
    points = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator(0, 0)), dim=-1)
    assert all((f(points) > 0).all() for f, _ in SOLIDS[name])
    assert 0.05 < look(SOLIDS[name], elevation=20, azimuth=30)[0].float().mean() < 0.6


@pytest.mark.parametrize("relation", RELATIONS)
def test_pairs_touch_and_stand_where_the_relation_says(relation):
    for upper in PRIMITIVES:
        parts = pair(upper, "cube", relation)
        hit, _, part = look(parts)
        first, second = ((part == k) & hit for k in (0, 1))
        assert first.any() and second.any()
        axis = 1 if relation == "beside" else 0
        a, b = (m.nonzero()[:, axis].float().mean() for m in (first, second))
        # rows count downwards; from the front, +y is on the right
        assert (a > b) if relation == "beside" else (a < b)


def test_view_words():
    words = world.view_word(torch.tensor([0.0, 0, 0, 0, 45]), torch.tensor([10.0, 90, 180, 330, 0]))
    assert words == ["front", "side", "back", "front", "overhead"]


def test_composition_is_the_formula():
    layers = torch.rand(2, 6, 4, 4, generator=generator(0, 0))
    a, b, back = torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 3, 4, 1)
    wanted = (
        layers[:, 0, None] * a[..., None, None] + layers[:, 1, None] * b[..., None, None] + layers[:, 2:5]
    ) + (1 - layers[:, 5, None]) * back
    assert torch.equal(world.compose(layers, a, b, back), wanted.clamp(0, 1))


def test_an_atlas_and_its_draws_depend_on_their_seeds_alone():
    a, b = (world.build_atlas(3, 2, world=TINY) for _ in range(2))
    assert torch.equal(a.layers, b.layers) and a.views == b.views
    assert not torch.equal(a.layers, world.build_atlas(4, 2, world=TINY).layers)
    (x, i, s), (y, j, t) = (a.draw(8, generator(0, 5)) for _ in range(2))
    assert torch.equal(x, y) and torch.equal(i, j) and s == t
    assert x.min() >= 0 and x.max() <= 1


def test_captions_are_prompts_of_what_is_seen():
    atlas = world.build_atlas(3, 1, 1, TINY)
    pairs = 0
    for caption in atlas.draw(128, generator(0, 6))[2]:
        pairs += len(parse(caption)) - 1
    assert 64 < pairs < 128  # 98 of the 111 renders show two objects


def test_backgrounds_are_soft():
    back = world.background(100, generator(0, 0))
    assert back.shape == (100, 3, 32, 1) and back.min() >= 0 and back.max() <= 1
    assert (back[:, :, 1:] - back[:, :, :-1]).abs().max() < 0.02
