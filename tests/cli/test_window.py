"""A run that chooses its windows: what it keeps of it, and how it is done again."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from dreamprop import checkpoint

Cli = Callable[..., int]
FOLDER = Path("outputs/toy/a_red_sphere")
LONG = ("trainer.max_steps=150", "checkpoint.every_n_train_steps=40", "checkpoint.keep=9", "parallel.audit=0")


def final(folder: Path) -> dict[str, torch.Tensor]:
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    return {**state.params, **state.moments}


def same(a: Path, b: Path) -> bool:
    one, two = final(a), final(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def decisions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "windows.jsonl").read_text().splitlines()]


def test_decisions_are_kept_and_followed(cli: Cli) -> None:
    assert cli("--train", *LONG, "parallel.window=auto") == 0
    told = json.loads((FOLDER / "summary.json").read_text())
    kept = decisions(FOLDER)
    assert told["window"] == "auto" and told["windows"] == kept
    assert kept[0]["window"] == 1 and kept[-1]["until"] is None and all(row["reason"] for row in kept)
    assert cli("--train", *LONG, f"parallel.window={FOLDER}", "tag=again") == 0
    again = FOLDER.parent / "again"
    assert same(FOLDER, again)
    columns = [
        [line.split(",")[:4] for line in (place / "metrics.csv").read_text().splitlines()]
        for place in (FOLDER, again)
    ]
    assert columns[0] == columns[1]


def test_a_run_that_goes_on_takes_the_same_rounds(cli: Cli) -> None:
    assert cli("--train", *LONG, "parallel.window=auto") == 0
    whole, kept = final(FOLDER), decisions(FOLDER)
    for saved in sorted(FOLDER.glob("checkpoints/step-*"))[2:]:
        saved.unlink()
    assert cli("--train", *LONG, "parallel.window=auto", "--resume", str(FOLDER)) == 0
    assert decisions(FOLDER) == kept
    assert all(torch.equal(whole[name], tensor) for name, tensor in final(FOLDER).items())


def test_a_folder_without_a_log_is_refused(cli: Cli, refused: Callable[[int], str]) -> None:
    line = refused(cli("--train", "parallel.window=outputs/none"))
    assert "must be a number, auto, or the folder of a run that chose its windows" in line
