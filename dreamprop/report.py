"""`report.html`: pictures side by side, the numbers, and stride and error over the steps, in one file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dreamprop.roundlog import RoundLog

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; }
th { text-align: left; font-weight: 600; } td { font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figure.turn img { width: 16rem; } figure.views img { width: 100%; image-rendering: pixelated; }
figcaption { font-size: .9rem; color: #555; } img, svg { max-width: 100%; height: auto; }
.big { font-size: 1.15rem; } .small { font-size: .9rem; color: #555; }
"""


UNITS = {"step": "nominal steps", "paper": "mean square x 1e6"}
"""What the errors of a rule are measured in."""


def embed(content: bytes, kind: str) -> str:
    """Bytes as a URL that needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def plot(logs: Mapping[str, RoundLog], unit: str) -> str:
    """Stride and error of each run over the steps, as an SVG element.

    Args:
        logs: the rounds of runs by their label.
        unit: of the errors.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    strides, errors = figure.subplots(2, 1, sharex=True)
    for label, log in logs.items():
        steps = [int(row["step"]) for row in log.rows]
        taken = [int(row["stride"]) for row in log.rows]
        strides.step([0, *steps], [*taken[:1], *taken], where="pre", label=label)
        largest = [float(row["error"]) for row in log.rows]
        if any(largest):
            errors.plot(steps, largest, marker=".", label=label)
    strides.set_ylabel("steps a round")
    strides.set_ylim(bottom=0)
    strides.legend()
    errors.set_ylabel(f"largest error accepted\n[{unit}]")
    errors.set_ylim(bottom=0)
    errors.set_xlabel("step")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; everything in it is escaped."""
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header) + "</tr>"]
    lines += [
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return "\n".join([*lines, "</table>"])


def page(
    report: Mapping[str, Any],
    pictures: Mapping[str, tuple[bytes, bytes]],
    logs: Mapping[str, RoundLog],
) -> str:
    """The whole page.

    Args:
        report: what `report.json` holds.
        pictures: for each run its turntable (GIF) and its views (PNG), by label.
        logs: the rounds of each run that belongs on the plot.
    """
    runs = {"sequential": "baseline", "accelerated": "accelerated", "sequential, other noise": "other_noise"}
    rows = []
    for label, key in runs.items():
        run = report[key]
        judged = run["judge"]
        rows.append(
            [
                label,
                run["steps"],
                run["rounds"],
                f"{run['speedup_rounds']:.2f}",
                run["drifts"],
                f"{run['wall_seconds']:.1f}",
                f"{judged['correct']} of {judged['views']}" if judged else "-",
            ]
        )
    header = ["run", "steps", "rounds", "steps a round", "drifts", "seconds", "named by the judge"]
    turns = "".join(
        f'<figure class="turn"><img alt="turntable" src="{embed(turn, "image/gif")}">'
        f"<figcaption>{html.escape(label)}</figcaption></figure>"
        for label, (turn, _) in pictures.items()
    )
    views = "".join(
        f'<figure class="views"><img alt="views" src="{embed(view, "image/png")}">'
        f"<figcaption>{html.escape(label)}</figcaption></figure>"
        for label, (_, view) in pictures.items()
    )
    prompt = html.escape(report["prompt"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{prompt}: sequential and accelerated</title>
<style>{STYLE}</style></head><body>
<h1>“{prompt}”, sequential and accelerated</h1>
<p class="big"><b>{report["speedup_wall"]:.2f}</b> times the speed by the clock,
<b>{report["speedup_rounds"]:.2f}</b> times fewer rounds; the views agree with the sequential run's to
<b>{report["psnr_db"]:.1f} dB</b> (SSIM {report["ssim"]:.3f}). A sequential run with other noise agrees with
it to {report["seed_noise_psnr_db"]:.1f} dB (SSIM {report["seed_noise_ssim"]:.3f}).</p>
<div class="row">{turns}</div>
{table(header, rows)}
<p class="small">{html.escape(report["timing"])}</p>
<h2>Views</h2>
{views}
<h2>Stride and error over the steps</h2>
{plot(logs, UNITS[report["accelerated"]["error_rule"]])}
<p class="small">window {report["accelerated"]["window"]}, tolerance {report["accelerated"]["tolerance"]:g},
evaluator {html.escape(report["accelerated"]["evaluator"])}, seed {report["accelerated"]["seed"]},
{report["accelerated"]["threads"]} threads, {html.escape(report["accelerated"]["device"])}.</p>
</body></html>
"""
