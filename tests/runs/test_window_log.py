"""`windows.jsonl`: what is read back from it, and what is refused."""

from pathlib import Path

import pytest

from dreamprop.distributed.communicator import Communicator
from dreamprop.errors import InputError
from dreamprop.runs.window_log import check, line, open_windows, read
from dreamprop.solver.window_choice import Decision

LOG = [
    Decision(0, 1, 2, "plain"),
    Decision(2, 8, 40, "tried", {1: 0.1}),
    Decision(41, 4, 60, "quick", {1: 0.1}),
]


def write(folder: Path, text: str) -> None:
    (folder / "windows.jsonl").write_text(text)


def test_decisions_are_read_back(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    write(tmp_path, "".join(map(line, LOG)))
    assert read(tmp_path) == LOG


def test_a_line_that_a_kill_cut_short_was_not_used(tmp_path: Path) -> None:
    write(tmp_path, "".join(map(line, LOG))[:-9])
    assert read(tmp_path) == LOG[:2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, line(LOG[0]) + "nonsense\n" + line(LOG[1]))
    with pytest.raises(InputError, match=r"windows.jsonl, line 2, must be a decision, got 'nonsense.*; drop"):
        read(tmp_path)


def test_a_run_that_goes_on_has_the_log_of_its_folder_and_a_new_one_does_not(tmp_path: Path) -> None:
    write(tmp_path, "".join(map(line, LOG))[:-9])
    windows = open_windows("auto", Communicator(), tmp_path, 30)
    assert windows.decisions == LOG[:2] == read(tmp_path)
    assert open_windows("auto", Communicator(), tmp_path, 0).decisions == [] == read(tmp_path)


def test_windows_of_another_run_are_followed_to_the_end(tmp_path: Path) -> None:
    other, own = tmp_path / "other", tmp_path / "own"
    other.mkdir(), own.mkdir()
    write(other, "".join(map(line, LOG)))
    windows = open_windows(str(other), Communicator(), own)
    assert [(d.step, d.window) for d in windows.decisions] == [(0, 1), (2, 8), (41, 4)]
    assert windows.decisions[-1].until is None and read(own) == windows.decisions
    write(other, "")
    with pytest.raises(InputError, match=r"must hold a decision, got none; use parallel\.window=auto"):
        open_windows(str(other), Communicator(), own)


def test_a_number_needs_no_log(tmp_path: Path) -> None:
    assert open_windows(4, Communicator(), tmp_path).decisions == [Decision(0, 4)]
    assert not (tmp_path / "windows.jsonl").exists()


@pytest.mark.parametrize("window", ["wide", "8.5", ""])
def test_other_words_are_refused(window: str) -> None:
    check("auto", Communicator()), check(8, Communicator())
    with pytest.raises(
        InputError, match=r"parallel\.window must be a number, auto, or the folder .*; use auto"
    ):
        check(window, Communicator())
