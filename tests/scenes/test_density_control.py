"""Gaussians that are cloned, split, pruned and lowered: one index map of parameters and moments; what is counted."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from plyfile import PlyData

from dreamprop.optim import Adam, ParamGroup
from dreamprop.rng import generator
from dreamprop.runs.artifacts.splats import ply
from dreamprop.scenes.gaussians.config import GaussiansConfig
from dreamprop.scenes.gaussians.density_control import ScreenSpace, count, counters, densify, reset_opacity
from dreamprop.scenes.gaussians.names import (
    FEATURES_DC,
    GRADIENT,
    OPACITY,
    RADIUS,
    ROTATION,
    SCALING,
    SEEN,
    XYZ,
)
from dreamprop.scenes.gaussians.scene import Gaussians
from dreamprop.state import State

CONFIG = GaussiansConfig(
    num_points=6, densify_grad_threshold=1.0, split_scale=0.1, min_opacity=0.05, max_scale=0.5
)


def six() -> State:
    """Six Gaussians: one to stay, one to clone, one to split, a faint one, a large one, and one that was seen large."""
    scene = Gaussians(CONFIG)
    params, buffers = scene.init(torch.Generator().manual_seed(0))
    params[SCALING] = torch.tensor([0.01, 0.05, 0.2, 0.01, 0.6, 0.01]).log()[:, None].repeat(1, 3)
    params[OPACITY] = torch.tensor([0.5, 0.5, 0.5, 0.01, 0.5, 0.5]).logit()[:, None]
    buffers[GRADIENT] = torch.tensor([0.9, 4.0, 6.0, 9.0, 0.0, 0.0])
    buffers[SEEN] = torch.tensor([1.0, 2.0, 2.0, 1.0, 0.0, 1.0])
    buffers[RADIUS] = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.9])
    moments = Adam([ParamGroup(tuple(params), 0.1)]).init(params)
    moments = {key: torch.rand(m.shape, generator=generator(0, 0, key)) + 0.1 for key, m in moments.items()}
    return State(params, moments, buffers, 7)


def after(state: State, config: GaussiansConfig = CONFIG, seed: int = 0) -> State:
    return State(*densify(state.params, state.moments, state.buffers, config, generator(seed, 7, "split")), 7)


def test_parameters_and_moments_follow_one_index_map() -> None:
    before, now = six(), after(six())
    index = [0, 1, 1, 2, 2]  # stays, cloned, its clone, the two parts
    for name in (FEATURES_DC, OPACITY, ROTATION):
        assert torch.equal(now.params[name], before.params[name][index])
    assert torch.equal(now.params[XYZ][:3], before.params[XYZ][index[:3]])
    assert torch.equal(now.params[SCALING][:3], before.params[SCALING][index[:3]])
    assert torch.allclose(now.params[SCALING][3:].exp() * 1.6, torch.tensor(0.2))
    for key, moment in now.moments.items():
        assert torch.equal(moment[:2], before.moments[key][:2]) and not moment[2:].any()
    assert all(b.shape == (5,) and not b.any() for b in now.buffers.values())


def test_parts_are_drawn_from_what_was_split_by_the_step_and_the_seed() -> None:
    before, config = six(), GaussiansConfig(**{**vars(CONFIG), "max_points": 100_000})
    before.params[SCALING][2] = torch.tensor([0.2, 0.02, 0.1]).log()
    before.params[ROTATION][2] = torch.tensor([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)])  # x to y
    many = [after(before, config, seed).params[XYZ][3:] - before.params[XYZ][2] for seed in range(500)]
    spread = torch.cat(many).std(0)
    assert spread.tolist() == pytest.approx([0.02, 0.2, 0.1], rel=0.1)
    assert torch.equal(after(before).params[XYZ], after(before).params[XYZ])
    assert not torch.equal(many[0], many[1])


def test_there_are_no_more_than_allowed_and_the_hardest_pulled_come_first() -> None:
    now = after(six(), GaussiansConfig(**{**vars(CONFIG), "max_points": 4}))
    assert len(now.params[XYZ]) == 4
    assert torch.allclose(
        now.params[SCALING][2:].exp(), torch.tensor(0.2 / 1.6)
    )  # split: pulled by 3, not by 2
    few = after(six(), GaussiansConfig(**{**vars(CONFIG), "max_points": 2}))
    assert torch.equal(few.params[SCALING], six().params[SCALING][:3])  # none is added, and none taken for it


def test_one_is_always_left() -> None:
    state = six()
    state.params[OPACITY][:] = -9 + torch.arange(6.0)[:, None]
    state.params[OPACITY][5] = -9
    now = after(state)
    assert torch.equal(now.params[XYZ], state.params[XYZ][4:5])


def test_opacities_are_lowered_with_their_moments() -> None:
    before = six()
    params, moments = reset_opacity(before.params, before.moments, 0.02)
    assert params[OPACITY].sigmoid().squeeze(1).tolist() == pytest.approx([0.02] * 3 + [0.01] + [0.02] * 2)
    for key, moment in moments.items():
        assert not moment.any() if key.startswith(OPACITY) else torch.equal(moment, before.moments[key])
    assert all(params[name] is before.params[name] for name in params if name != OPACITY)


def test_all_pictures_are_counted_in_units_of_the_picture() -> None:
    """A gradient of a mean over two pictures is half of that of a picture; one that sees nothing does not count."""
    radii = torch.tensor([[[4.0, 0.0], [6.0, 0.0]]])
    seen = ScreenSpace(torch.zeros(1, 2, 2, 2), radii, (20, 10))
    grad = torch.tensor([[[[0.3, 0.0], [5.0, 5.0]], [[0.0, 0.2], [5.0, 5.0]]]])
    told = {name: value[0] for name, value in seen.told(grad).items()}
    assert told[GRADIENT].tolist() == pytest.approx([2 * (0.3 * 10 + 0.2 * 5), 0.0])
    assert told[SEEN].tolist() == [2.0, 0.0] and told[RADIUS].tolist() == pytest.approx([0.3, 0.0])
    twice = count(count(counters(2, grad), told), {**told, RADIUS: torch.tensor([0.1, 0.4])})
    assert twice[SEEN].tolist() == [4.0, 0.0] and twice[RADIUS].tolist() == pytest.approx([0.3, 0.4])
    assert torch.allclose(twice[GRADIENT], 2 * told[GRADIENT])


@pytest.mark.parametrize("degree", [0, 2])
def test_splats_are_read_back(degree: int) -> None:
    scene = Gaussians(GaussiansConfig(num_points=9, sh_degree=degree))
    params, _ = scene.init(torch.Generator().manual_seed(0))
    params = {name: p + torch.randn(p.shape, generator=generator(0, 0, name)) for name, p in params.items()}
    read = PlyData.read(BytesIO(ply(scene.splats(params))))
    assert not read.text and read.byte_order == "<"
    vertex = read["vertex"]
    assert vertex.count == 9 and {p.val_dtype for p in vertex.properties} == {"f4"}

    def columns(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([vertex[name] for name in names], 1))

    assert torch.equal(columns("x", "y", "z"), params[XYZ])
    assert torch.equal(columns("f_dc_0", "f_dc_1", "f_dc_2"), params[FEATURES_DC][:, 0])
    assert torch.equal(columns("opacity"), params[OPACITY])
    assert torch.equal(columns("scale_0", "scale_1", "scale_2"), params[SCALING])
    turned = columns("rot_0", "rot_1", "rot_2", "rot_3")
    assert torch.allclose(turned * params[ROTATION].norm(dim=1, keepdim=True), params[ROTATION], atol=1e-6)
    rest = [name for name in vertex.data.dtype.names if name.startswith("f_rest_")]
    assert len(rest) == 3 * ((degree + 1) ** 2 - 1)
    if degree:  # all of red, then of green, then of blue
        of_green = columns(*rest)[:, 8:16]
        assert torch.equal(of_green, params["geometry.features_rest"][:, :, 1])
