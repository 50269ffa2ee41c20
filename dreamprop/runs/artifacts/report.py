"""What the runs of a comparison come to: `report.json`, `report.html` and a few lines."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dreamprop.runs.artifacts.page import page
from dreamprop.runs.artifacts.quality import psnr_db, ssim
from dreamprop.runs.outcome import RUNS, Outcome, occupied
from dreamprop.solver import audit
from dreamprop.state import equal
from dreamprop.utils import atomic_io


def write(place: Path, runs: Mapping[str, Outcome], *, prompt: str, timing: str, shown: str) -> None:
    """Measure the runs against the baseline, write `report.json` and `report.html`, and tell what came out.

    Args:
        place: the folder of the comparison.
        runs: by the keys of `RUNS`.
        prompt: what was made.
        timing: what the seconds hold, in a sentence or two.
        shown: what the views are, in a sentence or two.

    Raises:
        InputError: the disk refused.
    """
    baseline, accelerated, other = (runs[key] for key in RUNS)
    values: dict[str, Any] = {
        "prompt": prompt,
        **{key: runs[key].summary for key in RUNS},
        "speedup_wall": baseline.summary["wall_seconds"] / accelerated.summary["wall_seconds"],
        "speedup_rounds": baseline.summary["rounds"] / accelerated.summary["rounds"],
        **_nearness("", accelerated, baseline),
        **_nearness("seed_noise_", other, baseline),
        "identical": equal(accelerated.state, baseline.state),
        "occupied": {key: occupied(runs[key].state) for key in RUNS},
        "views": len(baseline.views),
        "shown": shown,
        "timing": timing,
    }
    atomic_io.write_json(place / "report.json", values)
    atomic_io.write_text(place / "report.html", page(values, {key: runs[key] for key in RUNS}))
    _tell(values)
    for name in ("report.html", "report.json"):
        print(f"  {place / name}")


def unfinished(stop: BaseException, place: Path, done: Collection[str]) -> str:
    """What to tell when a comparison ends before its last run."""
    return f"{stop}\nfinished runs kept in {place}: {', '.join(done) or 'none'}; start afresh to compare"


def _nearness(prefix: str, run: Outcome, reference: Outcome) -> dict[str, float | None]:
    """PSNR and SSIM of a run's views against another's; None where there are no views."""
    seen = len(reference.views) > 0
    return {
        f"{prefix}psnr_db": psnr_db(run.views, reference.views) if seen else None,
        f"{prefix}ssim": ssim(run.views, reference.views) if seen else None,
    }


def _tell(values: Mapping[str, Any]) -> None:
    line = (
        f"{values['speedup_wall']:.2f} times the speed by the clock, "
        f"{values['speedup_rounds']:.2f} times fewer rounds; "
    )
    if values["views"]:
        line += (
            f"{values['psnr_db']:.1f} dB to the sequential run "
            f"({values['seed_noise_psnr_db']:.1f} dB with other noise)"
        )
    else:
        line += "no pictures to compare were found"
    print(line)
    if "audit" in values["accelerated"]:
        print(audit.line(values["accelerated"]["audit"]))
    for key in ("baseline", "accelerated"):
        if judge := values[key].get("judge"):
            print(f"{key}: the judge names the prompt in {judge['correct']} of {judge['views']} views")
