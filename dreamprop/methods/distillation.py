"""What every distillation shares: a scene moved by an optimiser along what a diffusion model makes of its pictures.

A method adds what a gradient is: it subclasses `Distillation` and writes `evaluate`, the drifts of W states from the
pictures that `StepRenderer` makes of them. The scene is a `Scene`, the diffusion model a `Guidance`: neither is known
by more than its interface.

Legend: W states, H and V pixels down and across.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from dreamprop.guidance.factory import make_guidance
from dreamprop.methods import views
from dreamprop.methods.config import DataConfig, SystemConfig, check_shares
from dreamprop.methods.factory import make_optimizer, make_scene
from dreamprop.methods.regularizers import weights
from dreamprop.methods.rendering import StepRenderer
from dreamprop.optim.moments import MomentKey
from dreamprop.process import Group, Process
from dreamprop.rng import generator
from dreamprop.scenes.field import Tensors, stack
from dreamprop.scenes.rendered import Rendered
from dreamprop.scenes.scene import own
from dreamprop.state import Drift, State
from dreamprop.utils.cpu_threads import over_cores, split_over_cores


class Distillation(Process):
    """A scene moved by what a diffusion model makes of its pictures, as a process.

    Args:
        data: pictures and cameras of a step.
        system: scene, renderer, prompt, guidance, losses and optimiser.
        seed: of every draw.
        max_steps: how long the chain is meant to be; changes of size beyond it are not announced.
        device: of parameters and model.

    Raises:
        InputError: a setting that only the parts can judge is wrong: a word, a model, a parameter group, pictures that
            cannot be shared evenly by the particles.
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
        check_shares(data.batch_size, system.num_particles)
        self.scene = make_scene(system)
        self.guidance = make_guidance(system.guidance, system.prompt_processor, self.device)
        groups = {**self.scene.groups(), **self.guidance.groups()}
        self.optimizer = make_optimizer(system.optimizer, system.geometry_type, groups)
        self.weights = weights(system.loss)
        """By step, of every loss."""
        self.renderer = StepRenderer(
            data, system, self.scene, self.guidance.resize, self.weights["orient"], self.device
        )
        self._boundaries = self.scene.boundaries(max_steps)

    @property
    def boundaries(self) -> Collection[int]:  # type: ignore[override]
        """The steps at which the scene changes its size."""
        return self._boundaries

    @property
    def bound(self) -> float:
        """Half the side of the cube around the scene."""
        return self.scene.radius

    def groups(self, step: int) -> Mapping[str, Group]:
        """The optimiser's parameter groups with their learning rates."""
        return self.optimizer.groups(step)

    def init(self) -> State:
        """The state that enters step 0: the scene's own start, what guidance learns, and moments of zero."""
        params, buffers = self.scene.init(generator(self.seed, 0, "init"))
        params |= self.guidance.init(generator(self.seed, 0, "init guidance"))
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
        return [drift for found in over_cores(self.evaluate, shares) for drift in found]

    def evaluate(self, states: Sequence[State]) -> list[Drift]:
        """The drifts at W states, in their order: what a method is."""
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(states)")

    def update(self, state: State, drift: Drift) -> State:
        """One step of the optimiser; then what a new step brings: a larger grid, a fresher occupancy, more splats."""
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        buffers = self.scene.gather(state.buffers, drift.aux, state.step)
        return self._enter(params, moments, buffers, state.step + 1)

    def predict(self, state: State) -> State:
        """One step of the optimiser along its momentum, and what a new step brings."""
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return self._enter(params, moments, state.buffers, state.step + 1)

    def skip_update(self, state: State) -> State:
        """The next state with the update left out."""
        return self._enter(
            state.params, self.optimizer.skip_update(state.moments), state.buffers, state.step + 1
        )

    @property
    def known_sizes(self) -> bool:
        """Whether the sizes behind a boundary follow from the step alone."""
        return self.scene.known_sizes

    def buffer_distance(self, name: str, rolled_out: Tensor, guessed: Tensor) -> Tensor:
        """How far two buffers differ, relative to their size: not at all where no drift reads them."""
        if name in self.scene.unread:
            return torch.zeros((), device=rolled_out.device)
        return super().buffer_distance(name, rolled_out, guessed)

    def elementwise(self, step: int) -> bool:
        """Whether nothing but the optimiser acts on the way into a step: no growth, no fresh occupancy."""
        return self.optimizer.elementwise and self.scene.elementwise(step)

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
        seen = self._around(state, num_views, width, height, elevation)
        shown = [part.over(self.renderer.background) for part in seen]
        return torch.cat(shown).clamp(0, 1)

    @torch.no_grad()
    def opacity(self, state: State) -> float:
        """Mean opacity, in [0, 1], of four small pictures from around the object: 0 where nothing is left."""
        return float(torch.cat([part.opacity for part in self._around(state, 4, 32, 32, 15.0)]).mean())

    def density_and_color(self, state: State, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [P], in 1 / length, and colour [P, 3] in [0, 1] at points [P, 3]; nothing is outside the ball."""
        device = next(iter(state.params.values())).device
        return self.scene.density_and_color(stack([own(self.scene, state.params)]), points.to(device))

    def splats(self, state: State) -> Mapping[str, Tensor] | None:
        """The columns of a file of Gaussians, by name; None where the scene is none of Gaussians."""
        return self.scene.splats(own(self.scene, state.params))

    def _around(
        self, state: State, num_views: int, width: int, height: int, elevation: float
    ) -> list[Rendered]:
        return views.around(
            self.scene,
            state,
            self.data,
            num_views=num_views,
            width=width,
            height=height,
            elevation=elevation,
        )

    def _enter(self, params: Tensors, moments: Tensors, buffers: Tensors, step: int) -> State:
        """The state that enters a step: a pure function of what the step before left."""
        mine = own(self.scene, params)
        belong = {key: m for key, m in moments.items() if MomentKey.parse(key).parameter in mine}
        entered, remembered, buffers = self.scene.enter(mine, belong, buffers, step, self.seed)
        return State({**params, **entered}, {**moments, **remembered}, buffers, step)
