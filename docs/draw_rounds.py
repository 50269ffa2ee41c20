"""Draw docs/rounds.png from a run: a row a round, a column a step.

python docs/draw_rounds.py outputs/dreamfusion/a_red_torus/metrics.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch, Rectangle

ROUNDS = 12
ACCEPTED, AGAIN = "#2f6fb3", "#c9d8ea"


def main(path: Path, out: Path) -> None:
    with open(path) as file:
        rows = list(csv.DictReader(file))[:ROUNDS]
    figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
    base = 0
    for number, row in enumerate(rows):
        stride, drifts = int(row["stride"]), int(row["drifts"])
        for slot in range(drifts):
            color = ACCEPTED if slot < stride else AGAIN
            axes.add_patch(Rectangle((base + slot, number), 0.92, 0.84, color=color))
        base += stride
    axes.set_xlim(0, base + 8)
    axes.set_ylim(len(rows), 0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("round")
    axes.legend(
        handles=[Patch(color=ACCEPTED, label="accepted"), Patch(color=AGAIN, label="evaluated again later")]
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the metrics.csv of an accelerated run")
    main(Path(sys.argv[1]), Path(__file__).parent / "rounds.png")
