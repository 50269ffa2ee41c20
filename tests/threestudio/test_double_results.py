"""A wrapped system by what it shows, without a checkout: the accelerated run keeps the object."""

from __future__ import annotations

from typing import Any

import torch

from dreamprop.state import State
from dreamprop.threestudio.system import Threestudio
from tests.results import Shown, judge

from . import toy_scene

STEPS = 96


def make(seed: int) -> Threestudio:
    return Threestudio(toy_scene.System(), toy_scene.loader(), seed=seed)


def show(process: Threestudio, state: State) -> Shown:
    process.commit(state)
    system: Any = process.system
    sides = [(axis, back) for axis in range(3) for back in range(2)]
    with torch.no_grad():
        views = torch.stack([system.geometry(*side) for side in sides])
        wanted = torch.stack([system.guidance.target(*side) for side in sides])
    cells = {"binaries": int(state.buffers["geometry.binaries"].sum())}
    return Shown(views, float((views - wanted).square().mean()), cells)


def test_a_wrapped_system_by_its_result() -> None:
    judged = judge(make, show, STEPS)
    print(judged.line("double"))
    judged.check()
