"""Samplers on targets whose score is known at every noise level: errors against sequential calls and parallel rounds.

    python benchmarks/gaussian_mixtures.py
    python docs/draw_gaussian_mixtures.py outputs/benchmarks/gaussian-mixtures.jsonl

Two parts. On Gaussians the law that comes out is exact (`gaussian_rates.py`): how calls and rounds to a fixed error
grow with the dimension. On mixtures of three Gaussians in 2 to 1,024 dimensions, by samples from the same noise: the
distance of a solver of the probability-flow ODE from its exact solution, root mean square by coordinate; and for all of
them the sliced Wasserstein distance to points of the target, next to that of two samples of the target.

Finished measurements are kept: stop it at any time and start it again with the same command.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import ROOT, Results, table
from gaussian_rates import measure_orders, measure_rates
from torch import Tensor

import dreamprop as dp
from dreamprop.rng import generator
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.exponential import euler
from dreamprop.sampling.mixture import GaussianMixture, sliced_w2
from dreamprop.sampling.ornstein_uhlenbeck import ReverseOU
from dreamprop.sampling.piadm import block_times, reverse_chain
from dreamprop.sampling.picard_blocks import Block, solve_blocks
from dreamprop.sampling.randomized_midpoint import midpoint_chain
from dreamprop.sampling.score_chain import ScoreChain, gaussian

BLOCKS, START, END = 4, 8.0, 0.01
DIMENSIONS = (2, 16, 128, 1024)
STEPS = (16, 32, 64, 128)
REFERENCE = 2048
"""Steps of the exact solution."""
EVALUATOR = dp.evaluate.batched(sub_batch=8)


@dataclass(frozen=True)
class Problem:
    """A target, and the noise that every method begins from."""

    target: GaussianMixture
    """Three Gaussians; in any dimension as far from each other."""
    start: Tensor
    """[n, d] of N(0, I)."""


def count(d: int) -> int:
    """How many points are sampled in d dimensions."""
    return min(2000, 500_000 // d)


def problem(d: int) -> Problem:
    """The problem in d dimensions."""
    g = generator(0, d, "benchmark/mixture")
    means = torch.randn(3, d, generator=g, dtype=torch.float64)
    means = 4 * means / means.norm(dim=1, keepdim=True)
    variances = 0.2 + torch.rand(3, d, generator=g, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Problem(GaussianMixture(means, variances, weights), gaussian((count(d), d), 0, torch.float64))


Method = Callable[[Problem, int], dp.Solution]
"""(problem, steps) to a solution whose ``params["x"]`` are its points."""


def times(steps: int) -> list[list[float]]:
    """Blocks of the grid that all methods have."""
    return block_times(START, END, BLOCKS, steps // BLOCKS)


def line(steps: int) -> list[list[float]]:
    """The same grid in one piece."""
    return [[t for block in times(steps) for t in block[:-1]] + [END]]


def blocks(made: tuple[ScoreChain, list[Block]]) -> dp.Solution:
    """Solved block by block."""
    return solve_blocks(*made, evaluator=EVALUATOR)


def sequential(made: tuple[ScoreChain, list[Block]]) -> dp.Solution:
    """Solved step by step."""
    return dp.solve_sequential(made[0], len(made[0].steps))


def chain(p: Problem, steps: int, sweeps: int = 4, whole: bool = False, **options: Any) -> Any:
    """The reversed process of a problem."""
    grid = line(steps) if whole else times(steps)
    return reverse_chain(p.target.score, p.start, grid, sweeps=sweeps, **options)


def euler_maruyama(p: Problem, steps: int) -> dp.Solution:
    """Euler-Maruyama on the reverse SDE."""
    (grid,) = line(steps)
    made = [euler(ReverseOU(1.0), t, t - u) for t, u in itertools.pairwise(grid)]
    return dp.solve_sequential(ScoreChain(p.target.score, made, p.start), steps)


def paradigms(p: Problem, steps: int) -> dp.Solution:
    """ParaDiGMS: the sliding window over DDIM, with a tenth of what a step moves for a tolerance."""
    made, _ = chain(p, steps, form="ode", hold="noise")
    return dp.solve(made, steps, window=16, tolerance=0.1, evaluator=EVALUATOR)


METHODS: dict[str, Method] = {
    "Euler-Maruyama": euler_maruyama,
    "exponential SDE": lambda p, n: sequential(chain(p, n)),
    "exponential ODE": lambda p, n: sequential(chain(p, n, form="ode")),
    "DDIM": lambda p, n: sequential(chain(p, n, form="ode", hold="noise")),
    "randomised midpoints": lambda p, n: sequential(midpoint_chain(p.target.score, p.start, line(n // 2))),
    "PIADM-SDE": lambda p, n: blocks(chain(p, n)),
    "PIADM-ODE": lambda p, n: blocks(chain(p, n, form="ode")),
    "PIADM-ODE, corrected": lambda p, n: blocks(
        chain(p, n, form="ode", corrector=Corrector(max(2, n // 8), sweeps=2))
    ),
    "parallel midpoints": lambda p, n: blocks(
        midpoint_chain(p.target.score, p.start, line(8), midpoints=n // 8, sweeps=2)
    ),
    "ParaDiGMS": paradigms,
}
"""A method is one line here."""
FLOWS = ("exponential ODE", "DDIM", "randomised midpoints", "PIADM-ODE", "parallel midpoints", "ParaDiGMS")
"""Those that solve the probability-flow ODE."""


def measure_mixtures(
    results: Results, dimensions: Sequence[int], steps: Sequence[int], reference: int
) -> list[dict[str, Any]]:
    """Every method on every problem."""
    rows = []
    for d in dimensions:
        p = problem(d)
        truth = [p.target.sample(count(d), generator(i, d, "benchmark/truth")) for i in range(2)]
        exact: Tensor | None = None
        for name in ["the target itself", *METHODS]:
            for n in steps if name in METHODS else steps[:1]:
                found = results.find(part="mixtures", method=name, d=d, steps=n)
                if found is None:
                    row = {"part": "mixtures", "method": name, "d": d, "steps": n}
                    if name not in METHODS:
                        found = results.add(row | {"sliced": compare(truth[1], truth[0])})
                        rows.append(found)
                        continue
                    if exact is None and name in FLOWS:
                        exact = points(sequential(chain(p, reference, form="ode")))
                    solution = METHODS[name](p, n)
                    stats, x = solution.stats, points(solution)
                    row |= {"rounds": stats.num_rounds, "calls": stats.num_drifts}
                    if name in FLOWS and exact is not None:
                        row["flow"] = (x - exact).square().mean().sqrt().item()
                    sliced = compare(x, truth[0])
                    found = results.add(row | {"sliced": sliced if math.isfinite(sliced) else None})
                rows.append(found)
    return rows


def compare(a: Tensor, b: Tensor) -> float:
    """The sliced Wasserstein distance of two samples, by the same directions always."""
    return sliced_w2(a, b, 200, generator(0, a.shape[1], "benchmark/directions")).item()


def points(solution: dp.Solution) -> Tensor:
    """Those that a method comes to."""
    return solution.state.params["x"]


def slope(rows: Sequence[dict[str, Any]], what: str, first: int) -> float:
    """The exponent of d in a quantity divided by T, fitted from d = `first` on."""
    some = [row for row in rows if row["d"] >= first]
    if len(some) < 2:
        return math.nan
    x = torch.tensor([math.log(row["d"]) for row in some], dtype=torch.float64)
    y = torch.tensor([math.log(row[what] / row["T"]) for row in some], dtype=torch.float64)
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "gaussian-mixtures.jsonl"
    )
    parser.add_argument("--most", type=int, default=4096, help="largest dimension of a Gaussian")
    parser.add_argument("--noisy", type=int, default=1024, help="the same for methods that draw noise")
    parser.add_argument(
        "--finest", type=int, default=6, help="halvings of the step where its order is measured"
    )
    parser.add_argument("--dimensions", type=int, nargs="+", default=DIMENSIONS, help="of mixtures")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="of the samplers on mixtures")
    parser.add_argument("--reference", type=int, default=REFERENCE, help="steps of the exact solution")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(args.out)
    rates = measure_rates(results, args.most, args.noisy)
    measure_orders(results, 64, args.finest)
    print("Calls, rounds (and exponent of d, T apart, from d = 16 on) to a KL of 0.1 on Gaussians:\n")
    rows = []
    for name in dict.fromkeys(row["method"] for row in rates):
        mine = [row for row in rates if row["method"] == name]
        shown = [row for row in mine if row["d"] in (2, 64, args.noisy)]
        cells = [f"{row['calls']}, {row['rounds']}" for row in shown]
        cells += ["-"] * (3 - len(cells))
        rows.append([name, *cells, f"{slope(mine, 'calls', 16):.2f}", f"{slope(mine, 'rounds', 16):.2f}"])
    print(table(["method", "d = 2", "d = 64", f"d = {args.noisy}", "calls", "rounds"], rows))
    mixtures = measure_mixtures(results, args.dimensions, args.steps, args.reference)
    d, n = max(args.dimensions), max(args.steps)
    print(f"\nMixtures, d = {d}, {n} steps:\n")
    rows = []
    for row in mixtures:
        if row["d"] == d and (row["steps"] == n or "calls" not in row):
            told = [str(row.get(key, "-")) for key in ("rounds", "calls")]
            flow = f"{row['flow']:.4f}" if "flow" in row else "-"
            rows.append([row["method"], *told, flow, f"{row['sliced']:.3f}"])
    print(table(["method", "rounds", "calls", "off the flow", "sliced W2"], rows))


if __name__ == "__main__":
    main()
