"""Every test runs in an empty folder, with a config of the toy in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dreamprop
from dreamprop.cli import main
from dreamprop.runs import experiment
from tests.cli import toy
from tests.cli.runs import Cli, Refused
from tests.cli.samples import SMALL, Sample


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "toy.yaml").write_text(toy.CONFIG)
    monkeypatch.chdir(here)
    # The program takes all cores unless it is told otherwise: the tests share theirs.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(experiment, "METHODS", dict(experiment.METHODS))
    toy.register()
    # Processes of their own find the project where the tests found it.
    monkeypatch.setenv("PYTHONPATH", str(Path(dreamprop.__file__).parents[1]))
    yield here


@pytest.fixture
def cli() -> Cli:
    """The command line on the toy's config."""

    def run(*arguments: str) -> int:
        return main(["--config", "toy.yaml", *arguments])

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny latent model with random weights."""
    from tests.guidance.tiny import save  # most tests here do without diffusers

    return save(tmp_path_factory.mktemp("model"), latent=True)


@pytest.fixture
def arguments(model: Path) -> list[str]:
    """The shipped config of pictures, with the tiny model and few steps."""
    return [*SMALL, f"system.guidance.pretrained_model_name_or_path={model}"]


@pytest.fixture
def sample(arguments: list[str]) -> Sample:
    """The command line on the tiny model."""

    def run(*more: str) -> int:
        return main([*arguments, *more])

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Check that the program refused the input in one line, and return the line."""

    def check(status: int) -> str:
        told = capsys.readouterr().err
        lines = [line for line in told.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        assert status == 2, told
        assert len(errors) == 1 and lines[-1] == errors[0], told
        assert "Traceback" not in told
        return errors[0]

    return check
