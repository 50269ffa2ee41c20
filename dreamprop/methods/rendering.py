"""The pictures of W states as their steps draw them: states that are alike are rendered together.

Legend: W states rendered together, n particles a state, B pictures a state, H and V pixels down and across, h pixels of
what guidance takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.methods.regularizers import Weight
from dreamprop.methods.step_sample import StepSample
from dreamprop.scenes import background, cameras
from dreamprop.scenes.config import SOLID_COLOR
from dreamprop.scenes.field import Tensors, stack
from dreamprop.scenes.rendered import PictureSpec, Rendered
from dreamprop.scenes.scene import Scene, own
from dreamprop.scenes.shading import Shading
from dreamprop.state import Drift, State
from dreamprop.utils.transfer import filled

CACHE = 1 << 17
"""Samples rendered at a time for a drift on a CPU: beyond this, temporaries leave the cache and a window costs more
than its states one by one. On other devices all states are rendered at once."""


@dataclass(frozen=True)
class Batch:
    """States that were rendered together, with the graph back to their parameters."""

    places: list[int]
    """Where the W states stand among those that were asked for."""
    steps: list[int]
    """The steps that they enter."""
    params: Tensors
    """[W, ...] leaves of the graph, by name"""
    mine: Tensors
    """[W, ...] those of the scene among them"""
    rendered: Rendered
    """W B pictures before the background, those of a state together and in it those of a particle"""
    images: Tensor
    """[W B, 3, h, h] in [0, 1] before their backgrounds, at the resolution that guidance takes"""
    cameras: cameras.Cameras
    """The W B cameras that the pictures were taken with."""


class StepRenderer:
    """Renders states from the cameras, in the light and before the backgrounds that their steps drew.

    Args:
        data: where cameras and lights may be.
        system: background and material.
        scene: what the parameters mean.
        resize: brings pictures to the resolution that guidance takes.
        orient: weight by step of the penalty on normals, which are rendered where it is above 0.
        device: of the states and of what their steps drew.
    """

    def __init__(
        self,
        data: DataConfig,
        system: SystemConfig,
        scene: Scene,
        resize: Callable[[Tensor], Tensor],
        orient: Weight,
        device: torch.device,
    ) -> None:
        self.system, self.scene, self.resize, self.orient = system, scene, resize, orient
        # brought to the device once
        self.ambient = torch.tensor(system.material.ambient_light_color, device=device)
        self.diffuse = torch.tensor(system.material.diffuse_light_color, device=device)
        self.background = background.solid(system.background.color, device)
        self.ranges = cameras.Ranges(
            elevation=data.elevation_range,
            azimuth=data.azimuth_range,
            batch_uniform_azimuth=data.batch_uniform_azimuth,
            distance=data.camera_distance_range,
            fovy=data.fovy_range,
            camera_perturb=data.camera_perturb,
            center_perturb=data.center_perturb,
            up_perturb=data.up_perturb,
            light_distance=data.light_distance_range,
            light_position_perturb=data.light_position_perturb,
        )

    def __call__(self, states: Sequence[State], samples: Sequence[StepSample]) -> list[Batch]:
        """The pictures of states whose steps drew `samples`, with the graph back to their parameters."""
        return [
            self._render(
                places,
                [states[i].step for i in places],
                stack([states[i].params for i in places]),
                stack([states[i].buffers for i in places]),
                [samples[i] for i in places],
            )
            for places in self._alike(states, samples)
        ]

    def _alike(self, states: Sequence[State], samples: Sequence[StepSample]) -> list[list[int]]:
        """Which states are rendered together: those alike in sizes and in what is to be rendered."""
        alike: dict[object, list[int]] = {}
        for place, (state, sample) in enumerate(zip(states, samples, strict=True)):
            shapes = tuple(p.shape for p in state.params.values())
            kind = (sample.size, sample.shaded, self.orient(state.step) > 0, shapes)
            alike.setdefault(kind, []).append(place)
        if next(iter(states[0].params.values())).device.type != "cpu":
            return list(alike.values())
        parts = []
        for places in alike.values():
            per_state = math.prod(samples[places[0]].size) * self.scene.cost(final=False)
            size = max(1, CACHE // per_state)
            parts += [places[i : i + size] for i in range(0, len(places), size)]
        return parts

    @torch.enable_grad()
    def _render(
        self,
        places: list[int],
        steps: list[int],
        params: Tensors,
        buffers: Tensors,
        samples: Sequence[StepSample],
    ) -> Batch:
        """The pictures of states alike."""
        params = {name: p.requires_grad_() for name, p in params.items()}
        batch, height, width = samples[0].size
        # cameras are spread evenly around every particle
        count, share = len(samples) * self.scene.num_particles, batch // self.scene.num_particles
        view = cameras.place(
            torch.stack([s.uniform for s in samples]).view(count, share, -1),
            torch.stack([s.normal for s in samples]).view(count, share, -1),
            self.ranges,
        )
        mine = own(self.scene, params)
        spec = PictureSpec(
            view,
            height,
            width,
            torch.stack([s.shift for s in samples]),
            shading=self._shading(view.light, samples) if samples[0].shaded else None,
            orientation=self.orient(steps[0]) > 0,
        )
        rendered = self.scene.render(mine, buffers, spec)
        kind, behind = self.system.background_type, self.background
        if kind != SOLID_COLOR:
            behind = background.random(kind, torch.cat([s.background for s in samples]), height, width)
        return Batch(places, steps, params, mine, rendered, self.resize(rendered.over(behind)), view)

    def _shading(self, light: Tensor, samples: Sequence[StepSample]) -> Shading:
        return Shading(
            light=light,
            ambient=self.ambient.expand(len(samples), 3),
            diffuse=self.diffuse.expand(len(samples), 3),
            textureless=filled([s.textureless for s in samples], light.device, torch.bool),
        )


def drifts(loss: Tensor, batches: Sequence[Batch]) -> list[Drift]:
    """The gradients of a loss with respect to the parameters of every state, in one backward pass, and what the
    updates are told besides.

    Args:
        loss: a sum over the states, so that each one's parameters see their own part of it alone.
        batches: what was rendered.

    Returns:
        As many drifts as there are states, in the order of their places.
    """
    watched = [batch.rendered.watched for batch in batches]
    wanted = [p for batch in batches for p in batch.params.values()]
    wanted += [quantity.value for quantity in watched if quantity is not None]
    found = iter(torch.autograd.grad(loss, wanted))
    stacked = [{name: next(found).contiguous() for name in batch.params} for batch in batches]
    by_place: dict[int, Drift] = {}
    for batch, grads, quantity in zip(batches, stacked, watched, strict=True):
        told = {} if quantity is None else quantity.told(next(found))
        for row, place in enumerate(batch.places):
            by_place[place] = Drift(
                {name: g[row] for name, g in grads.items()}, {name: t[row] for name, t in told.items()}
            )
    return [by_place[place] for place in sorted(by_place)]
