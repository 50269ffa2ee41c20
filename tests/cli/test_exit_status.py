"""Wrong flags and a wrong environment are the user's mistake, in one line; a defect is the program's."""

from dataclasses import replace

import pytest

from dreamprop.cli import main
from dreamprop.runs import experiment as experiments
from dreamprop.runs.config import ParallelConfig
from tests.cli.runs import Cli, Refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train"], ["--config", "configs/dreamfusion.yaml"]),
        (["--config", "toy.yaml"], ["--train"]),
        (["--config", "missing.yaml", "--train"], ["missing.yaml", "not a file"]),
        (["--config", "toy.yaml", "--tran"], ["unknown flag --tran", "--train"]),
        (["--config", "toy.yaml", "--train", "--compare"], ["not allowed"]),
        (["--config", "toy.yaml", "--export"], ["--resume"]),
        (["--config", "toy.yaml", "--compare", "--baseline"], ["--baseline"]),
        (["--config", "toy.yaml", "--train", "--gpu", "one"], ["--gpu", "one"]),
        (["--config", "toy.yaml", "--train", "--gpu", "99"], ["cuda:99", "CUDA devices"]),
    ],
)
def test_wrong_flags_are_one_line(refused: Refused, arguments: list[str], words: list[str]) -> None:
    line = refused(main(arguments))
    for word in words:
        assert word in line


def test_several_processes_must_know_where_to_meet(
    cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    line = refused(cli("--train"))
    assert "WORLD_SIZE must come with RANK, MASTER_ADDR, MASTER_PORT, got 8" in line and "torchrun" in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE must be a whole number, got 'two'"),
        ("MASTER_PORT", "-1", "MASTER_PORT must be a whole number, got '-1'"),
        ("RANK", "5", "RANK must be a finite number <= 1, got 5"),
    ],
)
def test_what_a_launcher_says_must_make_sense(
    cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    launched = {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    for key, usual in (launched | {name: value}).items():
        monkeypatch.setenv(key, usual)
    assert words in refused(cli("--train"))


def test_a_defect_of_the_program_is_no_mistake_of_the_user(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("shapes differ")

    with monkeypatch.context() as patch:
        patch.setitem(
            experiments.METHODS, "toy-system", replace(experiments.METHODS["toy-system"], process=broken)
        )
        assert cli("--train") == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "ValueError: shapes differ" in told and "error: " not in told

    monkeypatch.setattr(ParallelConfig, "__post_init__", broken)
    assert cli("--train") == 1
    assert "Traceback" in capsys.readouterr().err
