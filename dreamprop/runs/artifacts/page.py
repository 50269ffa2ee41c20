"""`report.html`: pictures side by side, the numbers, and what went on over the steps, in one file."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dreamprop.runs.artifacts import plots
from dreamprop.runs.outcome import RUNS, Outcome
from dreamprop.solver import audit

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; }
th { text-align: left; font-weight: 600; } td { font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figure.turn { flex: 1 1 12rem; } figure img { width: 100%; }
figure.views img { image-rendering: pixelated; }
figcaption { font-size: .9rem; color: #555; } img, svg { max-width: 100%; height: auto; }
.big { font-size: 1.15rem; } .small { font-size: .9rem; color: #555; }
"""


UNITS = {"step": "nominal steps", "paper": "mean square x 1e6"}
"""What the errors of a rule are measured in."""

Column = tuple[str, Callable[[Mapping[str, Any]], str | None]]
"""The head of a column, and what it holds of a summary; a column that holds nothing for any run is left out."""

COLUMNS: tuple[Column, ...] = (
    ("steps", lambda run: str(run["steps"])),
    ("rounds", lambda run: str(run["rounds"])),
    ("steps a round", lambda run: f"{run['speedup_rounds']:.2f}"),
    ("drifts", lambda run: str(run["drifts"])),
    ("drifts a step", lambda run: f"{run['drifts'] / run['steps']:.2f}"),
    ("seconds", lambda run: f"{run['wall_seconds']:.1f}"),
    ("peak memory", lambda run: _size(run.get("peak_memory_bytes"))),
    ("named by the judge", lambda run: _judged(run.get("judge"))),
)

MEMORY = {
    "cpu": "Peak memory: the most that the process had resident during the rounds, with models and what earlier runs "
    "left in its heap.",
    "gpu": "Peak memory: the most that PyTorch had handed out during the rounds on the GPU of the first process, with "
    "models.",
}
"""What the peak memory is, by the kind of device."""


def embed(content: bytes, kind: str) -> str:
    """Bytes as a URL that needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; everything in it is escaped."""
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header) + "</tr>"]
    lines += [
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return "\n".join([*lines, "</table>"])


def page(report: Mapping[str, Any], runs: Mapping[str, Outcome]) -> str:
    """The whole page.

    Args:
        report: what `report.json` holds.
        runs: the runs by the keys of `RUNS`.
    """
    accelerated = report["accelerated"]
    title = html.escape(report["prompt"] or accelerated["method"])
    logs = {RUNS[key]: runs[key].log for key in ("baseline", "accelerated")}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: sequential and accelerated</title>
<style>{STYLE}</style></head><body>
<h1>“{title}”, sequential and accelerated</h1>
<p class="big"><b>{report["speedup_wall"]:.2f}</b> times the speed by the clock,
<b>{report["speedup_rounds"]:.2f}</b> times fewer rounds; {_nearness(report)}</p>
<div class="row">{_figures("turn", "turntable", {key: run.turntable for key, run in runs.items()}, "gif")}</div>
{_numbers(report)}
{_audited(accelerated)}
{_occupied(report["occupied"])}
{_section("Views", _figures("views", "views", {key: run.sheet for key, run in runs.items()}, "png"))}
<p class="small">{html.escape(report["shown"])}</p>
{_section("Losses over the steps", plots.losses({RUNS[key]: run.losses for key, run in runs.items()}))}
{_section("Stride and error over the steps", plots.rounds(logs, _unit(accelerated)))}
<p class="small">{html.escape(_settings(accelerated))}.</p>
</body></html>
"""


def _audited(run: Mapping[str, Any]) -> str:
    """What the audit of a run found, of runs that have one."""
    return f"<p>Accelerated run, {html.escape(audit.line(run['audit']))}.</p>" if "audit" in run else ""


def _unit(run: Mapping[str, Any]) -> str:
    """What the errors of a run are measured in."""
    return str(run["error_unit"] if "error_unit" in run else UNITS[run["error_rule"]])


def _settings(run: Mapping[str, Any]) -> str:
    """How a run was solved; what its method has not is left out."""
    told = [f"{name} {run[name]}" for name in ("method", "scheduler", "window") if run.get(name) is not None]
    told += [f"tolerance {run['tolerance']:g}"] if run["tolerance"] is not None else []
    told += [f"evaluator {run['evaluator']}", f"seed {run['seed']}", f"{run['threads']} threads"]
    return ", ".join([*told, str(run["device"])])


def _nearness(report: Mapping[str, Any]) -> str:
    """How near the views of the runs are, in words."""
    if not report["views"]:
        return "there were no pictures to compare."
    same = "the result is the sequential run's bit for bit; " if report["identical"] else ""
    return (
        f"{same}the views agree with the sequential run's to <b>{report['psnr_db']:.1f} dB</b> "
        f"(SSIM {report['ssim']:.3f}). A sequential run with other noise agrees with it to "
        f"{report['seed_noise_psnr_db']:.1f} dB (SSIM {report['seed_noise_ssim']:.3f})."
    )


def _figures(kind: str, what: str, images: Mapping[str, bytes], form: str) -> str:
    """Pictures of the runs with their labels; those that are there."""
    return "".join(
        f'<figure class="{kind}"><img alt="{what}" src="{embed(image, f"image/{form}")}">'
        f"<figcaption>{html.escape(RUNS[key])}</figcaption></figure>"
        for key, image in images.items()
        if image
    )


def _section(heading: str, content: str) -> str:
    return f"<h2>{html.escape(heading)}</h2>\n{content}" if content else ""


def _numbers(report: Mapping[str, Any]) -> str:
    """The table of the runs, and what its seconds and bytes are."""
    cells = {head: [of(report[key]) for key in RUNS] for head, of in COLUMNS}
    kept = {head: column for head, column in cells.items() if any(column)}
    rows = [[label, *(column[i] or "-" for column in kept.values())] for i, label in enumerate(RUNS.values())]
    told = [report["timing"]]
    if "peak memory" in kept:
        told.append(MEMORY["cpu" if report["accelerated"]["device"] == "cpu" else "gpu"])
    return table(["run", *kept], rows) + f'\n<p class="small">{html.escape(" ".join(told))}</p>'


def _occupied(grids: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Occupied cells by grid and run."""
    names = grids["baseline"]
    rows = [[name, *(grids[key][name]["cells"] for key in RUNS), names[name]["of"]] for name in names]
    return table(["occupied cells", *RUNS.values(), "of"], rows) if rows else ""


def _size(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**20:,.0f} MiB"


def _judged(judge: Mapping[str, Any] | None) -> str | None:
    return f"{judge['correct']} of {judge['views']}" if judge else None
