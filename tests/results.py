"""Whether an accelerated run has the result of the sequential one, which bits cannot tell once a tolerance is used.

The measure is chance: two sequential runs whose steps draw other noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.process import Process
from dreamprop.state import State

CELLS = 0.05
"""Most that occupied cells may differ, as a share of the sequential run's."""


@dataclass(frozen=True)
class Shown:
    """What a state shows."""

    views: Tensor
    """Pictures from fixed cameras."""
    loss: float
    """Mean square of their difference from what the guidance wants, without noise."""
    cells: Mapping[str, int]
    """Occupied cells of every occupancy grid."""


@dataclass(frozen=True)
class Judged:
    """Runs of a chain side by side."""

    start: Shown
    sequential: Shown
    accelerated: Shown
    others: Sequence[Shown]
    """Sequential runs with other noise."""
    stats: dp.Stats
    """Of the accelerated run."""

    @property
    def spread(self) -> float:
        """How far the losses of the sequential runs are apart."""
        losses = [run.loss for run in (self.sequential, *self.others)]
        return max(losses) - min(losses)

    @property
    def psnr(self) -> float:
        """How near the accelerated run's views are to the sequential one's, in dB."""
        return psnr(self.accelerated.views, self.sequential.views)

    @property
    def yardstick(self) -> float:
        """How near views of runs with other noise are, at best."""
        return max(psnr(other.views, self.sequential.views) for other in self.others)

    def line(self, name: str) -> str:
        """A row of a table."""
        pairs = zip(self.sequential.cells.values(), self.accelerated.cells.values(), strict=True)
        cells = ", ".join(f"{a} / {b}" for a, b in pairs)
        losses = f"{self.sequential.loss:.5f} / {self.accelerated.loss:.5f} / {self.spread:.5f}"
        stats = self.stats
        work = f"{stats.speedup_rounds:.1f} | {stats.num_drifts / stats.num_steps:.2f}"
        return f"| {name} | {cells} | {losses} | {self.psnr:.1f} / {self.yardstick:.1f} | {work} |"

    def check(self) -> None:
        """The sequential run got further than noise goes, and the accelerated one to the same place."""
        told = f"{self.line('it is')} from {self.start.loss:.5f}"
        assert self.start.loss - self.sequential.loss > 2 * self.spread, told
        assert abs(self.accelerated.loss - self.sequential.loss) <= self.spread, told
        for name, count in self.sequential.cells.items():
            assert count > 0, told
            assert abs(self.accelerated.cells[name] - count) <= CELLS * count, told
        assert self.psnr > self.yardstick, told
        assert self.stats.num_rounds < self.stats.num_steps / 2, told


def judge(
    make: Callable[[int], Process],
    show: Callable[[Process, State], Shown],
    steps: int,
    seeds: Sequence[int] = (0, 1, 2),
    **options: object,
) -> Judged:
    """Run a chain sequentially, accelerated, and sequentially with other noise, all from the same start.

    Args:
        make: the process for a seed of the draws.
        show: what a state of a process shows.
        steps: of each run.
        seeds: of the two runs that are compared, then those of other noise.
        options: of the accelerated run; the window is 8 and the tolerance the default otherwise.
    """
    process = make(seeds[0])
    start = process.init()
    sequential = show(process, dp.solve_sequential(process, steps, state=start).state)
    solution = dp.solve(process, steps, state=start, **{"window": 8, **options})  # type: ignore[arg-type]
    accelerated = show(process, solution.state)
    others = []
    for seed in seeds[1:]:
        other = make(seed)
        others.append(show(other, dp.solve_sequential(other, steps, state=start).state))
    return Judged(show(process, start), sequential, accelerated, others, solution.stats)


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of values in [0, 1], in dB."""
    return -10 * float(torch.log10((a - b).square().mean()))
