"""`--compare`: the sequential and the accelerated run of one config, and a yardstick for their difference."""

import copy
import sys
from pathlib import Path
from typing import Any

import dreamprop as dp
from dreamprop import files, report, resume
from dreamprop.build import Experiment, make_process
from dreamprop.evolve import evolve, solve_options
from dreamprop.interrupt import Guard, Interrupted
from dreamprop.metrics import psnr_db, ssim
from dreamprop.process import NonFiniteDrift
from dreamprop.roundlog import RoundLog
from dreamprop.run import open_folder
from dreamprop.show import present, views_of
from dreamprop.state import State
from dreamprop.summary import summarize

VIEWS = 16
"""Views that two results are compared in."""

TIMING = (
    "Seconds are those of the rounds alone: imports, the building of models and scenes, pictures and files "
    "are left out, and both ways were run once before the clock started. "
    "All runs use the same threads and device."
)


def compare(experiment: Experiment) -> int:
    """Run a config sequentially, accelerated, and sequentially with other noise from the same first state.

    The accelerated run is the one that the folder is about: its files lie at the top; those of the others in
    `baseline/` and `other_noise/`. `report.json` and `report.html` hold what came out.

    Args:
        experiment: the checked config.

    Returns:
        The exit status: 0, or 1 when a signal interrupted it or a drift was not finite.

    Raises:
        InputError: a setting or the disk is wrong.
    """
    seed = experiment.config.seed
    process = make_process(experiment)
    other = copy.copy(process)  # the same model and scene, with noise of another seed
    other.seed = seed + 1
    experiment, place = open_folder(experiment)
    print(f"writing to {place}")
    first = process.init()
    warm_up(process, experiment, first)
    runs = {
        "baseline": (process, True, place / "baseline"),
        "accelerated": (process, False, place),
        "other_noise": (other, True, place / "other_noise"),
    }
    states: dict[str, State] = {}
    logs: dict[str, RoundLog] = {}
    told: dict[str, Any] = {}
    try:
        with Guard() as guard:
            for key, (chain, sequential, where) in runs.items():
                files.make_folder(where)
                with RoundLog(where) as log:
                    state = evolve(chain, experiment, log, sequential=sequential, state=first, guard=guard)
                states[key], logs[key] = state, log
                told[key] = summarize(chain, experiment, state, log, sequential=sequential)
                told[key]["seed"] = seed + 1 if key == "other_noise" else seed
                told[key]["judge"] = present(chain, state, experiment, where)
                files.write_json(where / "summary.json", told[key])
            resume.save(place, experiment, states["accelerated"])
            write_report(process, experiment, place, states, logs, told)
    except (Interrupted, NonFiniteDrift) as stop:
        done = ", ".join(states) or "none"
        print(f"{stop}\nfinished runs kept in {place}: {done}; start afresh to compare", file=sys.stderr)
        return 1
    return 0


def warm_up(process: Any, experiment: Experiment, first: State) -> None:
    """Take both ways once, so that what happens only the first time is on nobody's clock."""
    steps = experiment.config.trainer.max_steps
    dp.solve_sequential(process, first.step + 1, state=first)
    window = min(experiment.config.parallel.window, steps)
    dp.solve(process, first.step + window, state=first, **solve_options(process, experiment))


def write_report(
    process: Any,
    experiment: Experiment,
    place: Path,
    states: dict[str, State],
    logs: dict[str, RoundLog],
    told: dict[str, Any],
) -> None:
    """Measure the results against the baseline and write `report.json` and `report.html`."""
    views = {key: views_of(process, state, experiment, VIEWS) for key, state in states.items()}
    baseline, accelerated = told["baseline"], told["accelerated"]
    values = {
        "prompt": experiment.prompt,
        **told,
        "speedup_wall": baseline["wall_seconds"] / accelerated["wall_seconds"],
        "speedup_rounds": baseline["rounds"] / accelerated["rounds"],
        "psnr_db": psnr_db(views["accelerated"], views["baseline"]),
        "ssim": ssim(views["accelerated"], views["baseline"]),
        "seed_noise_psnr_db": psnr_db(views["other_noise"], views["baseline"]),
        "seed_noise_ssim": ssim(views["other_noise"], views["baseline"]),
        "identical": dp.state.equal(states["accelerated"], states["baseline"]),
        "views": VIEWS,
        "timing": TIMING,
    }
    shown = {
        "sequential": place / "baseline",
        "accelerated": place,
        "sequential, other noise": place / "other_noise",
    }
    files.write_json(place / "report.json", values)
    images = {
        label: ((where / "turntable.gif").read_bytes(), (where / "views.png").read_bytes())
        for label, where in shown.items()
    }
    plotted = {"accelerated": logs["accelerated"], "sequential": logs["baseline"]}
    files.write_text(place / "report.html", report.page(values, images, plotted))
    print(
        f"{values['speedup_wall']:.2f} times the speed by the clock, "
        f"{values['speedup_rounds']:.2f} times fewer rounds; "
        f"{values['psnr_db']:.1f} dB to the sequential run "
        f"({values['seed_noise_psnr_db']:.1f} dB with other noise)"
    )
    for key in ("baseline", "accelerated"):
        if judge := told[key]["judge"]:
            print(f"{key}: the judge names the prompt in {judge['correct']} of {judge['views']} views")
    for name in ("report.html", "report.json"):
        print(f"  {place / name}")
