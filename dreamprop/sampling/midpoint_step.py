"""Randomised midpoints of a linear SDE: an integral of the score estimated without bias, arXiv:1909.05503, 2406.00924.

A step of length h needs int_0^h k(h - u) s(x(tau + u)) du. R midpoints, one drawn evenly from each of R equal strata,
a_i ~ U[(i-1)/R, i/R], estimate it without bias (E over a is the integral itself, given the path):

    z(tau + h) ~ e^{A h} z + (h/R) sum_i k((1 - a_i) h) s(x_i, t - a_i h) + noise(h).

The path at a midpoint comes from Picard sweeps with the score held in each stratum at that of its midpoint,

    x_i^{k+1} = [ e^{A a_i h} z + sum_{j <= i} w_ij s(x_j^k, t - a_j h) + noise(a_i h) ]_x
    w_ij = int over stratum j up to a_i h of k(a_i h - u) du
         = F(a_i h - (j-1) h/R) - F(max(a_i h - j h/R, 0)),

from x_i^0, where s(x_j) is the score s(x, t) at the beginning for every j. For the probability-flow ODE
k(u) = e^{u/2}/2 and F(h) = e^{h/2} - 1; with R = 1 and no sweep that is the sequential method of arXiv:2406.00924,

    x_mid = e^{a h/2} x + (e^{a h/2} - 1) s(x, t),     x' = e^{h/2} x + (h/2) e^{(1-a) h/2} s(x_mid, t - a h),

(the paper's clock runs half as fast, so there h stands for h/2), and for the underdamped SDE it is Shen & Lee's. A
step asks for 1 + R (sweeps + 1) scores in sweeps + 2 parallel rounds. The noise at the midpoints and at the end is that
of one path of the linear SDE, put together from piece to piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dreamprop.rng import generator
from dreamprop.sampling.linear_sde import POSITION, VELOCITY, LinearSDE, product, scaled
from dreamprop.sampling.picard_blocks import Block
from dreamprop.sampling.score_chain import Draw, Step, Values


@dataclass(frozen=True, eq=False)
class Plan:
    """One step of length h with its midpoints, each particle with its own."""

    sde: LinearSDE
    """What is integrated."""
    start: Tensor
    """Time of the score at the beginning, []."""
    clock: float
    """By how much the score's time falls in a unit of the SDE's: 1 for a reversed process, 0 at a fixed target."""
    h: Tensor
    """Length, []."""
    a: Tensor
    """Midpoints in units of h, rising, [R, n]."""
    sweeps: int
    """Picard sweeps."""
    refresh: bool = False
    """Whether the velocity is drawn anew, from its stationary law, before the step."""

    @property
    def count(self) -> int:
        """R."""
        return len(self.a)

    @cached_property
    def propagators(self) -> list[list[list[Tensor]]]:
        """e^{A a_i h}, [R] of [c, c]."""
        return [self.sde.propagator(a * self.h) for a in self.a]

    @cached_property
    def weights(self) -> list[list[list[Tensor]]]:
        """w_ij, [R] of [i + 1] of [c]."""
        stratum = self.h / self.count

        def weight(i: int, j: int) -> list[Tensor]:
            whole = self.sde.forced(self.a[i] * self.h - j * stratum)
            later = self.sde.forced(torch.clamp(self.a[i] * self.h - (j + 1) * stratum, min=0))
            return [w - later_w for w, later_w in zip(whole, later, strict=True)]

        return [[weight(i, j) for j in range(i + 1)] for i in range(self.count)]

    @cached_property
    def pieces(self) -> list[tuple[list[list[Tensor]], list[list[Tensor]]]]:
        """Propagator and noise of the pieces of the step between midpoints, [R + 1]."""
        ends = torch.cat([torch.zeros_like(self.a[:1]), self.a, torch.ones_like(self.a[:1])])
        lengths = (ends[1:] - ends[:-1]) * self.h
        return [(self.sde.propagator(length), self.sde.spread(length)) for length in lengths]

    @cached_property
    def whole(self) -> list[list[Tensor]]:
        """e^{A h}."""
        return self.sde.propagator(self.h)

    @cached_property
    def kernels(self) -> list[list[Tensor]]:
        """(h/R) k((1 - a_i) h), [R] of [c]."""
        return [[k * self.h / self.count for k in self.sde.kernel((1 - a) * self.h)] for a in self.a]

    def path(self, z: Values, i: int, draw: Draw, offset: int) -> Values:
        """The noise of the linear SDE carried on over piece i, as ``x/path.*``; nothing where there is none."""
        propagator, spread = self.pieces[i]
        if not spread:
            return {}
        components = range(len(self.sde.components))
        drawn = [draw(f"noise/{i}/{c}", offset) for c in components]
        old = [z[f"x/path.{c}"] for c in components] if i else []
        moved = [product(row, old) if i else torch.zeros_like(drawn[0]) for row in propagator]
        return {f"x/path.{c}": moved[c] + product(spread[c], drawn) for c in components}

    def point(self, z: Values, i: int, draw: Draw, offset: int) -> Values:
        """The values with midpoint i of the next sweep for their position."""
        path = self.path(z, i, draw, offset)
        base = [z[f"x/base.{c}"] for c in range(len(self.sde.components))]
        x = product(self.propagators[i][0], base)
        for j, weight in enumerate(self.weights[i]):
            x = x + scaled(weight[0], z[f"x/score.{j}"])
        return z | path | {POSITION: x + path["x/path.0"] if path else x}

    def end(self, z: Values, draw: Draw, offset: int) -> Values:
        """The values at the end of the step, of which nothing of the step itself is left."""
        path = self.path(z, self.count, draw, offset)
        base = [z[f"x/base.{c}"] for c in range(len(self.sde.components))]
        found: Values = {}
        for c, name in enumerate(self.sde.components):
            value = product(self.whole[c], base)
            for i, kernel in enumerate(self.kernels):
                value = value + scaled(kernel[c], z[f"x/score.{i}"])
            found[name] = value + path[f"x/path.{c}"] if path else value
        return found


@dataclass(frozen=True, eq=False)
class Beginning:
    """The score where the step begins, and from it the first midpoint of sweep 0."""

    plan: Plan
    """The whole step."""

    @property
    def time(self) -> Tensor:
        """Where the score is evaluated, []."""
        return self.plan.start

    def update(self, z: Values, score: Tensor, draw: Draw) -> Values:
        """Remember where the step began and its score."""
        z = z | {VELOCITY: draw("velocity", 0)} if self.plan.refresh else z
        base = {f"x/base.{c}": z[name] for c, name in enumerate(self.plan.sde.components)}
        scores = {f"x/score.{j}": score for j in range(self.plan.count)}
        return self.plan.point(z | base | scores, 0, draw, 0)

    def predict(self, z: Values, draw: Draw) -> Values:
        """The values as they are: a midpoint cannot be guessed without this score."""
        return z


@dataclass(frozen=True, eq=False)
class Midpoint:
    """The score at one midpoint of one sweep; its position does not depend on the other midpoints of the sweep."""

    plan: Plan
    """The whole step."""
    sweep: int
    """0 is the one that starts from the score at the beginning."""
    index: int
    """Of the midpoint, from 0."""

    @property
    def time(self) -> Tensor:
        """Where the score is evaluated, [n]."""
        return self.plan.start - self.plan.clock * self.plan.a[self.index] * self.plan.h

    @property
    def offset(self) -> int:
        """Steps of the chain since the beginning, whose key the noise has."""
        return 1 + self.sweep * self.plan.count + self.index

    def update(self, z: Values, score: Tensor, draw: Draw) -> Values:
        """Keep the score; go on to the next midpoint, the next sweep or the end of the step."""
        z, count = z | {f"x/next.{self.index}": score}, self.plan.count
        if self.index < count - 1:
            return self.plan.point(z, self.index + 1, draw, self.offset)
        scores = {f"x/score.{j}": z[f"x/next.{j}"] for j in range(count)}
        z = {name: value for name, value in z.items() if not name.startswith("x/next.")} | scores
        if self.sweep < self.plan.sweeps:
            return self.plan.point(z, 0, draw, self.offset)
        return self.plan.end(z, draw, self.offset)

    def predict(self, z: Values, draw: Draw) -> Values:
        """The next midpoint of this sweep, exactly: it needs the scores of the last sweep alone. Where the beginning
        itself is a guess, and behind the last midpoint of a sweep, the position as it is."""
        if self.index < self.plan.count - 1 and "x/base.0" in z:
            return self.plan.point(z, self.index + 1, draw, self.offset)
        over = self.offset == self.plan.count * (self.plan.sweeps + 1)
        return {POSITION: z[POSITION]} if over else z


def randomized_midpoint_step(
    sde: LinearSDE,
    time: float,
    h: float,
    *,
    n: int,
    seed: int,
    key: int,
    midpoints: int = 1,
    sweeps: int = 0,
    clock: float = 1.0,
    refresh: bool = False,
) -> tuple[list[Step], list[Block]]:
    """The steps of a chain that make one step of the method, and the blocks in which it is parallel.

    Args:
        sde: what is integrated.
        time: Ornstein-Uhlenbeck time of the score at the beginning.
        h: length of the step, in the SDE's own time.
        n: particles, each with midpoints of its own.
        seed: of the run.
        key: number of the step, which with the seed is the key of its midpoints.
        midpoints: R.
        sweeps: Picard sweeps; 0 with one midpoint is the sequential method.
        clock: 1 where the score's time falls by h over the step, 0 where it stays.
        refresh: whether to draw the velocity anew before it.

    Raises:
        ValueError: there is no midpoint, or a negative number of sweeps.
    """
    if midpoints < 1:
        raise ValueError(f"midpoints must be >= 1, got {midpoints}; use 1 for the sequential method")
    if sweeps < 0:
        raise ValueError(f"sweeps must be >= 0, got {sweeps}; use 0 for the sequential method")
    drawn = torch.rand(midpoints, n, generator=generator(seed, key, "midpoints"), dtype=torch.float64)
    a = (torch.arange(midpoints, dtype=torch.float64)[:, None] + drawn) / midpoints
    start, length = torch.tensor([time, h], dtype=torch.float64).unbind()
    plan = Plan(sde, start, clock, length, a, sweeps, refresh)
    steps: list[Step] = [Beginning(plan)]
    steps += [Midpoint(plan, sweep, i) for sweep in range(sweeps + 1) for i in range(midpoints)]
    return steps, [Block(1, 1)] + [Block(midpoints, 1)] * (sweeps + 1)
