"""`--compare`: the sequential and the accelerated run of one config, and a yardstick for their difference."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dreamprop as dp
from dreamprop import crew, files, folder, report, resume
from dreamprop.build import Experiment, make_process, retag
from dreamprop.evolve import evolve
from dreamprop.interrupt import Guard
from dreamprop.metrics import psnr_db, ssim
from dreamprop.parallel import check, solve_options
from dreamprop.ranks import RankFailed, Ranks
from dreamprop.roundlog import RoundLog
from dreamprop.run import STOPS, open_folder
from dreamprop.show import present, views_of
from dreamprop.state import State
from dreamprop.summary import summarize
from dreamprop.window import Window

VIEWS = 16
"""Views that two results are compared in."""

TIMING = (
    "Seconds are those of the rounds alone: imports, the building of models and scenes, pictures and files "
    "are left out, and both ways were run once before the clock started. "
    "All runs use the same threads and device; with several processes, a sequential run takes the threads of all "
    "processes of its machine and one device."
)


def compare(experiment: Experiment, ranks: Ranks) -> int:
    """Run a config sequentially, accelerated, and sequentially with other noise from the same first state.

    The accelerated run is the one that the folder is about: its files lie at the top; those of the others in
    `baseline/` and `other_noise/`. `report.json` and `report.html` hold what came out.

    With several processes the sequential runs are made by the first of them, with the threads of all on its machine.

    Args:
        experiment: the checked config.
        ranks: the processes that make the accelerated run together.

    Returns:
        The exit status: 0, or 1 when a signal interrupted it or a drift was not finite.

    Raises:
        InputError: a setting or the disk is wrong.
    """
    seed, lead = experiment.config.seed, ranks.rank == 0
    process = crew.together(ranks, lambda: make_process(experiment))
    check(process, experiment.config.parallel, ranks)
    other = copy.copy(process)  # the same model and scene, with noise of another seed
    other.seed = seed + 1
    opened = crew.first_does(ranks, lambda: open_folder(experiment))
    place = Path(ranks.tell(str(opened[1]) if opened else None)[0])
    experiment = retag(experiment, place.name)
    if lead:
        print(f"writing to {place}")
    first = process.init()
    warm_up(process, experiment, first, ranks)
    runs = {
        "baseline": (process, True, place / "baseline"),
        "accelerated": (process, False, place),
        "other_noise": (other, True, place / "other_noise"),
    }
    states: dict[str, State] = {}
    logs: dict[str, RoundLog] = {}
    told: dict[str, Any] = {}
    try:
        with folder.held(place) if lead else nullcontext(), Guard() as guard:
            for key, (chain, sequential, where) in runs.items():
                begin = Window((first,))
                if not lead and not sequential:
                    evolve(chain, experiment, None, ranks, sequential=False, begin=begin, guard=guard)
                with crew.first_alone(ranks, key) if sequential else nullcontext(lead) as mine:
                    if not mine:
                        continue
                    files.make_folder(where)
                    with RoundLog(where) as log:
                        state = evolve(
                            chain, experiment, log, ranks, sequential=sequential, begin=begin, guard=guard
                        )
                    states[key], logs[key] = state, log
                    told[key] = summarize(chain, experiment, state, log, ranks, sequential=sequential)
                    told[key]["seed"] = seed + 1 if key == "other_noise" else seed
                    told[key]["judge"] = present(chain, state, experiment, where)
                    files.write_json(where / "summary.json", told[key])
            if not lead:
                return 0
            resume.save(place, experiment, Window((states["accelerated"],)))
            write_report(process, experiment, place, states, logs, told)
    except STOPS as stop:
        if isinstance(stop, RankFailed) and lead:
            print(stop.told, file=sys.stderr)
        if lead:
            done = ", ".join(states) or "none"
            print(f"{stop}\nfinished runs kept in {place}: {done}; start afresh to compare", file=sys.stderr)
        return 1
    return 0


def warm_up(process: Any, experiment: Experiment, first: State, ranks: Ranks) -> None:
    """Take both ways once, so that what happens only the first time is on nobody's clock."""
    steps = experiment.config.trainer.max_steps
    with crew.first_alone(ranks, "warm up") as mine:
        if mine:
            dp.solve_sequential(process, first.step + 1, state=first)
    window = min(experiment.config.parallel.window, steps)
    dp.solve(
        process, first.step + window, state=first, **solve_options(process, experiment.config.parallel, ranks)
    )


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
