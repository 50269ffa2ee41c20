"""Deterministic algorithms for the time of a run, as the key `trainer.deterministic` asks for them."""

import os
from pathlib import Path

import pytest
import torch

from dreamprop.cli import launch
from dreamprop.utils.deterministic import WORKSPACE, deterministic


def now() -> tuple[bool, bool, bool, str | None]:
    """The switches, and cuBLAS's workspace."""
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    return torch.are_deterministic_algorithms_enabled(), warn, benchmark, os.environ.get(WORKSPACE)


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_switches_are_put_back(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_deterministic_debug_mode(mode)
    before = now()
    with deterministic(False):
        assert now() == before
    with pytest.raises(KeyError), deterministic(True):
        assert now() == (True, False, False, ":4096:8")
        raise KeyError
    assert now() == before
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with deterministic(True):
        assert now() == (True, False, False, ":16:8"), "what the user has chosen stays"
    assert os.environ[WORKSPACE] == ":16:8"


@pytest.mark.parametrize("on", [True, False])
def test_the_key_holds_for_the_run(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def train(experiment: object, communicator: object, **options: object) -> int:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return 0

    monkeypatch.setattr("dreamprop.cli.train.train", train)
    config = Path(launch.__file__).parents[2] / "configs" / "dreamfusion.yaml"
    words = ["--config", str(config), "--train", "system.prompt_processor.prompt=a red sphere"]
    assert launch.main([*words, f"trainer.deterministic={str(on).lower()}", "device=cpu"]) == 0
    assert seen == [on] and not torch.are_deterministic_algorithms_enabled()


def test_a_wrong_value_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(launch.__file__).parents[2] / "configs" / "dreamfusion.yaml"
    words = ["--config", str(config), "--train", "system.prompt_processor.prompt=a red sphere"]
    assert launch.main([*words, "trainer.deterministic=sometimes"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "trainer.deterministic" in told and told.count("\n") == 1
