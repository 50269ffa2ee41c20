"""Plots over the steps of runs, as SVG elements for a page."""

import io
import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dreamprop.runs.metrics import RoundLog
from dreamprop.runs.outcome import Losses

ACCEPTED, AGAIN = "#2f6fb3", "#c9d8ea"
"""Colours of steps whose evaluation was accepted, and of those that are evaluated again."""
POINTS = 200
"""Points of a curve at most: a longer one shows means of as many steps as fit into one point."""


def rounds(logs: Mapping[str, RoundLog], unit: str) -> str:
    """Stride and error of each run.

    Args:
        logs: the rounds of runs by their label.
        unit: of the errors.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    strides, errors = figure.subplots(2, 1, sharex=True)
    for color, (label, log) in enumerate(logs.items()):
        steps = [int(row["step"]) for row in log.rows]
        taken = [int(row["stride"]) for row in log.rows]
        strides.step([0, *steps], [*taken[:1], *taken], where="pre", label=label, color=f"C{color}")
        largest = [float(row["error"]) for row in log.rows]
        if any(largest):
            errors.plot(steps, largest, marker=".", label=label, color=f"C{color}")
    strides.set_ylabel("steps a round")
    strides.set_ylim(bottom=0)
    strides.legend()
    errors.set_ylabel(f"largest error accepted\n[{unit}]")
    errors.set_ylim(bottom=0)
    errors.set_xlabel("step")
    return _svg(figure)


def steps_by_round(log: RoundLog) -> bytes:
    """Which steps each round evaluated and which it accepted, a row a round, as the bytes of a PNG file.

    Args:
        log: rounds, each of which evaluated the steps that follow the accepted one.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in log.rows:
        stride, drifts, number = int(row["stride"]), int(row["drifts"]), int(row["round"])
        base = int(row["step"]) - stride
        spans = [(base, stride), (base + stride, drifts - stride)]
        axes.broken_barh(spans, (number, 0.84), facecolors=[ACCEPTED, AGAIN])
    axes.set_ylim(max(len(log.rows), 1), 0)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel("round")
    axes.legend(
        handles=[Patch(color=ACCEPTED, label="accepted"), Patch(color=AGAIN, label="evaluated again later")]
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def losses(runs: Mapping[str, Losses]) -> str:
    """The logged losses of each run, a plot a name; nothing where nothing was logged.

    Args:
        runs: the losses of runs by their label.
    """
    names = sorted({name for logged in runs.values() for name in logged})
    if not names:
        return ""
    columns = min(len(names), 2)
    figure = Figure(figsize=(8, 2.2 * math.ceil(len(names) / columns)), layout="constrained")
    grid = figure.subplots(math.ceil(len(names) / columns), columns, squeeze=False)
    for name, axes in zip(names, grid.flat, strict=False):
        for color, (label, logged) in enumerate(runs.items()):
            curve = _thinned(logged.get(name, []))
            # what lies on the first one should not hide it
            width, alpha = (1, 1.0) if color else (4, 0.4)
            axes.plot(*curve, label=label, color=f"C{color}", linewidth=width, alpha=alpha)
        axes.set_title(name, fontsize="small")
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(runs))
    figure.supxlabel("step", fontsize="small")
    return _svg(figure)


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Steps and values of a curve, as means of blocks where there are more than `POINTS`."""
    size = max(1, math.ceil(len(curve) / POINTS))
    blocks = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [_mean([p[0] for p in block]) for block in blocks], [
        _mean([p[1] for p in block]) for block in blocks
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]
