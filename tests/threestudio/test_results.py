"""Systems of upstream by what they show: the accelerated run ends where the sequential one does, with its defaults.

Geometry, renderer with its occupancy grid, losses, optimiser and schedules are upstream's; the guidance wants a ball.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dreamprop.state import State
from dreamprop.threestudio.system import Threestudio
from tests.results import Shown, judge

from . import toy_guidance, upstream

pytestmark = upstream.needs_checkout

STEPS = 144
"""Nine updates of the occupancy grids."""

SMALL = [
    "system.renderer.num_samples_per_ray=32",
    f"{upstream.GRID}.log2_hashmap_size=12",
    "data.n_val_views=6",
    "data.eval_height=24",
    "data.eval_width=24",
    "data.eval_fovy_deg=50",
]
MORE = {
    "dreamfusion-sd-eff": ["data.width=24", "data.height=24", "data.sample_width=16", "data.sample_height=16"],
    "prolificdreamer-patch": [
        "~system.renderer.num_samples_per_ray", "system.renderer.base_renderer.num_samples_per_ray=32",
    ],
}  # fmt: skip

GUIDANCE: dict[str, tuple[str, dict[str, Any]]] = {
    "dreamfusion-sd": (toy_guidance.NAME, {}),
    "prolificdreamer": (toy_guidance.VSD, {}),
    "magic3d-coarse-sd": (toy_guidance.NAME, {}),
    "textmesh-if": (toy_guidance.NAME, {}),
    "sjc": (toy_guidance.NAME, {}),
    "latentnerf": (toy_guidance.NAME, {}),
    "hifa": (toy_guidance.NAME, {"losses": ["sds", "sds_img"]}),
    "sdi": (toy_guidance.NAME, {"losses": ["sdi"]}),
    "dreamfusion-sd-eff": (toy_guidance.NAME, {}),
    "prolificdreamer-hifa": (toy_guidance.VSD, {}),
    "prolificdreamer-scene": (toy_guidance.VSD, {"radius": 1.0}),  # its cube is five times as large
    "prolificdreamer-patch": (toy_guidance.VSD, {}),
}


def show(process: Threestudio, state: State) -> Shown:
    """Upstream's validation views, the system in evaluation mode."""
    process.commit(state)
    system: Any = process.system
    system.eval()
    system.do_update_step(0, state.step)
    ball = system.guidance.frozen.unet
    seen, wanted = [], []
    with torch.no_grad():
        for batch in process.replica.proxy.datamodule.val_dataloader():
            seen.append(system(batch)["comp_rgb"])
            wanted.append(ball(batch["rays_o"], batch["rays_d"], seen[-1].shape[-1]))
    system.train()
    views = torch.cat(seen)
    cells = {name: int(b.sum()) for name, b in state.buffers.items() if b.dtype == torch.bool}
    return Shown(views, float((views - torch.cat(wanted)).square().mean()), cells)


@pytest.mark.parametrize("name", list(GUIDANCE))
def test_a_system_by_its_result(name: str, folder: Path) -> None:
    from dreamprop.threestudio import loading

    toy_guidance.register()

    def make(seed: int) -> Threestudio:
        studio = upstream.studio(name, folder, *SMALL, *MORE.get(name, []))
        studio.system.guidance_type, settings = GUIDANCE[name]
        studio.system.guidance = OmegaConf.create(settings)
        return loading.process(studio, seed=seed)

    judged = judge(make, show, STEPS)
    print(judged.line(name))
    assert judged.sequential.cells
    judged.check()
