"""Draw docs/sampling-*.png from the results of benchmarks/gaussian_mixtures.py.

python docs/draw_gaussian_mixtures.py outputs/benchmarks/gaussian-mixtures.jsonl
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

Rows = list[dict[str, Any]]
DOCS = Path(__file__).parent
SEQUENTIAL = ("Euler-Maruyama", "exponential SDE", "exponential ODE", "DDIM", "randomised midpoints")
PARALLEL = ("PIADM-SDE", "PIADM-ODE", "PIADM-ODE, corrected", "parallel midpoints", "ParaDiGMS")
COLORS = {name: f"C{i}" for i, name in enumerate(SEQUENTIAL + PARALLEL)}


def curves(axes: Axes, rows: Rows, names: Sequence[str], x: str, y: str) -> None:
    """A line for each method."""
    for name in names:
        some = [row for row in rows if row["method"] == name and row.get(y) is not None]
        some = sorted((row for row in some if row[y] > 0), key=lambda row: row[x])
        if some:
            style = {"marker": "o" if name in SEQUENTIAL else "s", "markersize": 3, "linewidth": 1.2}
            axes.plot([r[x] for r in some], [r[y] for r in some], label=name, color=COLORS[name], **style)
    axes.grid(alpha=0.3)


def guide(axes: Axes, rows: Rows, name: str, what: str, law: Callable[[int, int], float], label: str) -> None:
    """A law of (d, T) through a method's value in the largest dimension."""
    some = sorted((row for row in rows if row["method"] == name), key=lambda row: row["d"])
    last = some[-1]
    scale = last[what] / law(last["d"], last["T"])
    shown = [row for row in some if row["d"] >= 8]
    axes.plot([r["d"] for r in shown], [scale * law(r["d"], r["T"]) for r in shown], "k:", linewidth=1)
    first = shown[0]
    axes.annotate(
        label,
        (first["d"], scale * law(first["d"], first["T"])),
        fontsize=8,
        ha="left",
        va="top",
        xytext=(6, -4),
        textcoords="offset points",
    )


def rates(rows: Rows) -> None:
    """Calls and rounds to a fixed error against the dimension."""
    figure, (calls, rounds) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    curves(calls, rows, SEQUENTIAL, "d", "calls")
    guide(calls, rows, "exponential SDE", "calls", lambda d, T: T * math.sqrt(d), r"$T\, d^{1/2}$")
    guide(calls, rows, "randomised midpoints", "calls", lambda d, T: T * d ** (1 / 3), r"$T\, d^{1/3}$")
    calls.set(xscale="log", yscale="log", xlabel="dimension d", ylabel="calls one after another")
    curves(rounds, rows, PARALLEL, "d", "rounds")
    guide(rounds, rows, "PIADM-SDE", "rounds", lambda d, T: math.log(20 * d) ** 2, r"$\log^2(2 d / 0.1)$")
    rounds.set(xscale="log", xlabel="dimension d", ylabel="parallel rounds", ylim=(0, None))
    calls.legend(fontsize=8)
    rounds.legend(fontsize=8)
    figure.suptitle("To a KL divergence of 0.1 on Gaussians")
    figure.savefig(DOCS / "sampling-rates.png", dpi=110)


def orders(rows: Rows) -> None:
    """The error against calls and rounds, in one dimension."""
    figure, (calls, rounds) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    curves(calls, rows, SEQUENTIAL, "calls", "kl")
    curves(rounds, rows, PARALLEL, "rounds", "kl")
    calls.set(xscale="log", yscale="log", xlabel="calls one after another", ylabel="KL divergence")
    rounds.set(xscale="log", xlabel="parallel rounds", ylim=(1e-4, 1e3))
    calls.legend(fontsize=8)
    rounds.legend(fontsize=8)
    figure.suptitle("Gaussians in d = 64: steps halved (left), one more sweep (right)")
    figure.savefig(DOCS / "sampling-orders.png", dpi=110)


def mixtures(rows: Rows) -> None:
    """How far from the exact flow, against rounds, by dimension."""
    dimensions = sorted({row["d"] for row in rows})
    figure, all_axes = plt.subplots(
        2,
        len(dimensions),
        figsize=(3 * len(dimensions), 6),
        layout="constrained",
        sharey="row",
        squeeze=False,
    )
    for column, d in enumerate(dimensions):
        some = [row for row in rows if row["d"] == d]
        for line, x in enumerate(("calls", "rounds")):
            axes = all_axes[line, column]
            curves(axes, some, SEQUENTIAL + PARALLEL, x, "flow")
            axes.set(xscale="log", yscale="log", xlabel=x, title=f"d = {d}" if line == 0 else "")
            axes.xaxis.set_minor_formatter(NullFormatter())
    for line in range(2):
        all_axes[line, 0].set_ylabel("off the exact flow, a coordinate")
    all_axes[0, -1].legend(fontsize=7)
    figure.savefig(DOCS / "sampling-mixtures.png", dpi=110)


def main(path: Path) -> None:
    rows: Rows = [json.loads(line) for line in path.read_text().splitlines()]
    for part, draw in (("rates", rates), ("orders", orders), ("mixtures", mixtures)):
        if some := [row for row in rows if row["part"] == part]:
            draw(some)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the results of benchmarks/gaussian_mixtures.py")
    main(Path(sys.argv[1]))
