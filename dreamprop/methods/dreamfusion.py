"""DreamFusion (arXiv:2209.14988): a radiance field moved by score distillation, as a process.

A drift renders the pictures of a step, asks the diffusion model which way they should change, and carries that back
to the parameters. It is written once, for W states: their scenes are rendered together, all pictures go through one
call of the U-Net, and one backward pass of the sum of the losses gives all gradients.

Legend: W states, B pictures a state, N pictures in all, H and V pixels down and across.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop import prior
from dreamprop.guidance import diffusion as models
from dreamprop.guidance.prompt import Prompt, Views
from dreamprop.guidance.sds import SDS, join
from dreamprop.methods.config import DataConfig, SystemConfig
from dreamprop.methods.factory import make_field, make_optimizer
from dreamprop.methods.step_sample import StepSample, draw_step
from dreamprop.process import Group
from dreamprop.rng import generator
from dreamprop.scenes import background, cameras
from dreamprop.scenes.field import stack
from dreamprop.scenes.shading import Shading
from dreamprop.scenes.volume_rendering import Rendered, render
from dreamprop.schedule import schedule
from dreamprop.state import Drift, State
from dreamprop.utils.cpu_threads import over_cores, split_over_cores

__all__ = ["DataConfig", "DreamFusion", "SystemConfig"]

CHUNK = 1 << 22
"""Samples rendered at a time for pictures of a result."""
CACHE = 1 << 17
"""Samples rendered at a time for a drift on a CPU: beyond this, temporaries leave the cache and a window costs more
than its states one by one. On other devices all states are rendered at once."""


class DreamFusion:
    """Score distillation of a radiance field.

    Args:
        data: pictures and cameras of a step.
        system: field, renderer, prompt, guidance, losses and optimiser.
        seed: of every draw.
        max_steps: how long the chain is meant to be; changes of size beyond it are not announced.
        device: of parameters and model.

    Raises:
        InputError: a setting that only the parts can judge is wrong: a word, a model, a parameter group.
    """

    def __init__(
        self,
        data: DataConfig,
        system: SystemConfig,
        *,
        seed: int = 0,
        max_steps: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.system, self.seed = data, system, seed
        self.device = torch.device(device)
        self.field = make_field(system)
        self.optimizer = make_optimizer(system.optimizer, system.geometry_type, self.field.groups())
        self.guidance = _guidance(system, self.device)
        self._ranges = cameras.Ranges(
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
        losses = ("sds", "orient", "sparsity", "opaque", "tv")
        self._weights = {name: schedule(getattr(system.loss, f"lambda_{name}")) for name in losses}
        grows = [t for t in system.geometry.resolution_milestones if t < max_steps]
        side = system.geometry.side
        regular = system.geometry_type == "volume-grid"
        self._boundaries = frozenset(t for t in grows if regular and side(t) != side(t - 1))

    @property
    def boundaries(self) -> Collection[int]:
        """The steps at which a volume grid grows."""
        return self._boundaries

    @property
    def bound(self) -> float:
        """Half the side of the cube around the scene."""
        return self.field.radius

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's parameter groups with their learning rates."""
        return self.optimizer.groups(step)

    def init(self) -> State:
        """A grey blob."""
        params, buffers = self.field.init(generator(self.seed, 0, "init"))
        params = {name: t.to(self.device) for name, t in params.items()}
        buffers = {name: t.to(self.device) for name, t in buffers.items()}
        return State(params, self.optimizer.init(params), buffers, 0)

    def drift(self, state: State) -> Drift:
        """The gradient at one state."""
        return self.drift_window([state])[0]

    def drift_window(self, states: Sequence[State]) -> list[Drift]:
        """The gradients at W states in one evaluation; on a CPU, one on each of its cores.

        Draws are those of each state's own step, so the result is that of W separate drifts to rounding.
        """
        shares = split_over_cores(states, self.device)
        return [drift for found in over_cores(self._evaluate, shares) for drift in found]

    def _evaluate(self, states: Sequence[State]) -> list[Drift]:
        """The gradients at W states: their scenes rendered, one call of the U-Net, and one backward pass."""
        draws = [draw_step(self.data, self.system.material, self.guidance, self.seed, s.step) for s in states]
        batches = self._batches(states, draws)
        leaves, images, views, losses = [], [], [], []
        for places in batches:
            params = stack([states[i].params for i in places])
            params = {name: p.requires_grad_() for name, p in params.items()}
            steps = [states[i].step for i in places]
            with torch.enable_grad():
                batch = [draws[i] for i in places]
                picture, view, loss = self._render(params, [states[i] for i in places], batch, steps)
            leaves.append(params)
            images.append(picture)
            views.append(view)
            losses.append(loss)

        order = [i for places in batches for i in places]
        repeated = [states[i].step for i in order for _ in range(draws[i].size[0])]  # [N]
        with torch.enable_grad():
            z, grad = self.guidance.gradient(
                torch.cat(images),
                torch.cat([v.elevation for v in views]),
                torch.cat([v.azimuth for v in views]),
                join([draws[i].guidance for i in order]),
                repeated,
            )
            share = [self._weights["sds"](states[i].step) / draws[i].size[0] for i in order]
            scale = torch.tensor(
                [s for s, i in zip(share, order, strict=True) for _ in range(draws[i].size[0])]
            )
            # the gradient of this sum with respect to z is the one that guidance asks for
            loss = (z * (grad * scale.to(z.device).view(-1, 1, 1, 1))).sum() + sum(losses)
            flat = [p for params in leaves for p in params.values()]
            found = iter(torch.autograd.grad(loss, flat))

        drifts: list[Drift | None] = [None] * len(states)
        for places, params in zip(batches, leaves, strict=True):
            stacked = {name: next(found).contiguous() for name in params}
            for row, place in enumerate(places):
                drifts[place] = Drift({name: g[row] for name, g in stacked.items()})
        return [d for d in drifts if d is not None]

    def update(self, state: State, drift: Drift) -> State:
        """One step of the optimiser; then what a new step brings: a larger grid, a fresher occupancy."""
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        return self._enter(params, moments, state.buffers, state.step + 1)

    def predict(self, state: State) -> State:
        """One step of the optimiser along its momentum, and what a new step brings."""
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return self._enter(params, moments, state.buffers, state.step + 1)

    def skip_update(self, state: State) -> State:
        """The next state with the update left out."""
        return self._enter(
            state.params, self.optimizer.skip_update(state.moments), state.buffers, state.step + 1
        )

    def elementwise(self, step: int) -> bool:
        """Whether nothing but the optimiser acts on the way into a step: no growth, no fresh occupancy."""
        return (
            self.optimizer.elementwise
            and step not in self._boundaries
            and not self.field.updates_occupancy(step)
        )

    @torch.no_grad()
    def render_views(
        self, state: State, num_views: int = 8, width: int = 64, height: int = 64, elevation: float = 15.0
    ) -> Tensor:
        """Pictures [num_views, 3, H, V] in [0, 1] from around the object, the first from the front; no draws.

        Args:
            state: what to show.
            num_views: how many, at even azimuths.
            width, height: in pixels.
            elevation: of the cameras in degrees.
        """
        behind = background.solid(self.system.background.color, self.device)
        shown = [part.over(behind) for part in self._around(state, num_views, width, height, elevation)]
        return torch.cat(shown).clamp(0, 1)

    @torch.no_grad()
    def opacity(self, state: State) -> float:
        """Mean opacity, in [0, 1], of four small pictures from around the object: 0 where nothing is left."""
        return float(torch.cat([part.opacity for part in self._around(state, 4, 32, 32, 15.0)]).mean())

    def _around(
        self, state: State, num_views: int, width: int, height: int, elevation: float
    ) -> Iterator[Rendered]:
        """Pictures from even azimuths, as many at a time as fit in memory."""
        samples = self.system.renderer.eval_num_samples_per_ray
        params, buffers = stack([state.params]), stack([state.buffers])
        # the cells that the run itself skips, at another spacing
        prune = self.system.renderer.prune_alpha * self.system.renderer.num_samples_per_ray / samples
        azimuth = torch.arange(num_views, device=self.device) * (360.0 / num_views)
        for part in azimuth.split(max(1, CHUNK // (width * height * samples))):
            view = cameras.orbit(
                torch.full_like(part, elevation),
                part,
                torch.full_like(part, sum(self.data.camera_distance_range) / 2),
                torch.full_like(part, sum(self.data.fovy_range) / 2),
            )
            shift = torch.full((1, len(part) * height * width), 0.5, device=self.device)
            yield render(
                self.field, params, buffers, view, height, width, shift, samples=samples, prune_alpha=prune
            )

    @torch.no_grad()
    def density_and_color(self, state: State, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [P], in 1 / length, and colour [P, 3] in [0, 1] at points [P, 3]; nothing is outside the ball."""
        params = stack([state.params])
        density, color = [], []
        for part in points.to(self.device).split(1 << 18):
            found = self.field.query(params, part[None])
            density.append(found.density[0] * (part.square().sum(-1) <= self.field.radius**2))
            color.append(found.color[0])
        return torch.cat(density), torch.cat(color)

    def _batches(self, states: Sequence[State], draws: Sequence[StepSample]) -> list[list[int]]:
        """Which states are rendered together: those alike in sizes and in what is to be rendered."""
        alike: dict[object, list[int]] = {}
        for place, (state, drawn) in enumerate(zip(states, draws, strict=True)):
            shapes = tuple(p.shape for p in state.params.values())
            orient = self._weights["orient"](state.step) > 0
            alike.setdefault((drawn.size, drawn.shaded, orient, shapes), []).append(place)
        if self.device.type != "cpu":
            return list(alike.values())
        parts = []
        for places in alike.values():
            samples = math.prod(draws[places[0]].size) * self.system.renderer.num_samples_per_ray
            size = max(1, CACHE // samples)
            parts += [places[i : i + size] for i in range(0, len(places), size)]
        return parts

    def _render(
        self,
        params: dict[str, Tensor],
        states: Sequence[State],
        draws: Sequence[StepSample],
        steps: Sequence[int],
    ) -> tuple[Tensor, cameras.Cameras, Tensor]:
        """Pictures at the model's resolution [W B, 3, h, h], their cameras, and the sum of the other losses."""
        _, height, width = draws[0].size
        device = self.device
        view = cameras.place(
            torch.stack([d.uniform for d in draws]).to(device),
            torch.stack([d.normal for d in draws]).to(device),
            self._ranges,
        )
        rendered = render(
            self.field,
            params,
            stack([s.buffers for s in states]),
            view,
            height,
            width,
            torch.stack([d.shift for d in draws]).to(device),
            samples=self.system.renderer.num_samples_per_ray,
            prune_alpha=self.system.renderer.prune_alpha,
            shading=self._shading(view.light, draws) if draws[0].shaded else None,
            orientation=self._weights["orient"](steps[0]) > 0,
        )
        if self.system.background_type == "random-color-background":
            behind = background.soft(torch.cat([d.background for d in draws]).to(device), height)
        else:
            behind = background.solid(self.system.background.color, device)
        picture = self.guidance.resize(rendered.over(behind))
        return picture, view, self._regularise(params, rendered, steps)

    def _shading(self, light: Tensor, draws: Sequence[StepSample]) -> Shading:
        material, count = self.system.material, len(draws)
        return Shading(
            light=light,
            ambient=torch.tensor(material.ambient_light_color, device=self.device).expand(count, 3),
            diffuse=torch.tensor(material.diffuse_light_color, device=self.device).expand(count, 3),
            textureless=torch.tensor([d.textureless for d in draws], device=self.device),
        )

    def _regularise(self, params: dict[str, Tensor], rendered: Rendered, steps: Sequence[int]) -> Tensor:
        """The weighted sum over states of the losses besides guidance; those of no weight are not evaluated."""
        total = rendered.opacity.new_zeros(())
        opacity = rendered.opacity.reshape(len(steps), -1)
        for name in ("orient", "sparsity", "opaque", "tv"):
            weights = [self._weights[name](step) for step in steps]
            if not any(weights):
                continue
            if name == "orient":
                assert rendered.orientation is not None
                loss = rendered.orientation
            elif name == "sparsity":
                loss = (opacity.square() + 0.01).sqrt().mean(1)
            elif name == "opaque":
                bounded = opacity.clamp(1e-3, 1 - 1e-3)
                loss = F.binary_cross_entropy(bounded, bounded, reduction="none").mean(1)
            else:
                loss = self.field.total_variation(params)
            total = total + (loss * torch.tensor(weights, device=loss.device)).sum()
        return total

    def _enter(
        self, params: dict[str, Tensor], moments: dict[str, Tensor], buffers: dict[str, Tensor], step: int
    ) -> State:
        """The state that enters a step: a pure function of what the step before left."""
        if step in self._boundaries:
            params, moments = self.field.grow(params, moments, self.system.geometry.side(step))
        buffers = self.field.update_occupancy(params, buffers, step, generator(self.seed, step, "occupancy"))
        return State(params, moments, buffers, step)


def _guidance(system: SystemConfig, device: torch.device) -> SDS:
    """The model and the prompt of a config."""
    g, p = system.guidance, system.prompt_processor
    path = g.pretrained_model_name_or_path
    if path in prior.MODELS:
        from dreamprop.prior import vocabulary

        vocabulary.check(p.prompt)
        if p.negative_prompt:
            vocabulary.check(p.negative_prompt)
        path = str(prior.MODELS[path])
    dtype = torch.float16 if g.half_precision_weights else torch.float32
    model = models.load(path, device, dtype)
    views = Views(p.front_threshold, p.back_threshold, p.overhead_threshold)
    prompt = Prompt.of(model, p.prompt, p.negative_prompt, views, p.view_dependent_prompting)
    return SDS(
        model,
        prompt,
        guidance_scale=g.guidance_scale,
        weighting=g.weighting_strategy,
        min_step_percent=g.min_step_percent,
        max_step_percent=g.max_step_percent,
        grad_clip=g.grad_clip,
        resolution=g.resolution,
    )
