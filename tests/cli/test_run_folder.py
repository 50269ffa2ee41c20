"""The folder of a run: what it is called, that it can be made, and that it is of one process at a time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dreamprop.cli import main
from dreamprop.config.loader import InputError
from dreamprop.runs import directory
from dreamprop.runs import experiment as experiments
from tests.cli.runs import FOLDER, Cli, Refused, contents
from tests.cli.shipped import METHOD


def test_odd_prompts_make_one_folder_name() -> None:
    from dreamprop.runs.directory import tag_of

    assert tag_of("a red torus") == "a_red_torus"
    assert tag_of('  "a *shiny* <cube>?"  ') == "_a__shiny___cube___"
    assert len(tag_of("ü" * 500).encode()) <= 120
    for prompt in ("..", "a\\b", "a/b", "a\x00b", "/etc"):
        with pytest.raises(InputError):
            tag_of(prompt)


def test_an_empty_tag_is_made_from_the_prompt(place: Path) -> None:
    assert experiments.load(METHOD, ["tag="]).config.tag == "a_red_torus"
    Path("empty.yaml").write_text("tag:\nsystem: {prompt_processor: {prompt: a red cube}}")
    assert experiments.load("empty.yaml").config.tag == "a_red_cube"


@pytest.mark.parametrize("root", ["/proc/outputs", "/sys/outputs", "toy.yaml/outputs", "x" * 300])
def test_an_output_folder_that_cannot_be_made(cli: Cli, refused: Refused, place: Path, root: str) -> None:
    line = refused(cli("--train", f"exp_root_dir={root}"))
    assert root in line and "exp_root_dir=FOLDER" in line
    assert [p.name for p in place.iterdir()] == ["toy.yaml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(cli: Cli, refused: Refused) -> None:
    Path("outputs").mkdir()
    Path("outputs").chmod(0o555)
    assert "Permission denied" in refused(cli("--train"))


def test_runs_that_start_at_the_same_time_do_not_share_a_folder(place: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: directory.claim(place / "outputs", "toy", "same"), range(24)))
    assert len(set(found)) == 24 and all(path.parent == place / "outputs" / "toy" for path in found)


def test_a_taken_folder_is_never_overwritten(cli: Cli) -> None:
    assert cli("--train") == 0
    before = (FOLDER / "summary.json").read_bytes()
    assert cli("--train", "seed=1") == 0
    assert (FOLDER / "summary.json").read_bytes() == before
    folders = sorted(p.name for p in FOLDER.parent.iterdir())
    assert len(folders) == 2 and folders[1].startswith("a_red_sphere@")
    second = FOLDER.parent / folders[1]
    assert OmegaConf.load(second / "config.yaml").tag == folders[1]
    # its own config, run again, gets another time stamp and not a longer name
    assert main(["--config", str(second / "config.yaml"), "--train"]) == 0
    assert all(p.name.count("@") <= 1 for p in FOLDER.parent.iterdir())
    assert len(list(FOLDER.parent.iterdir())) == 3


def test_a_second_process_in_a_folder_is_refused(cli: Cli, refused: Refused) -> None:
    assert cli("--train") == 0
    arguments = ["--train", "--resume", str(FOLDER)]
    before = contents(FOLDER)
    with directory.held(FOLDER):
        line = refused(cli(*arguments))
        assert "one process at a time" in line and str(FOLDER) in line
    assert contents(FOLDER) == before
    assert cli(*arguments) == 0
    # one that is dead holds nothing
    code = "import os, sys; from dreamprop.runs.directory import Path, held; a = held(Path(sys.argv[1]))"
    code += "; a.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(FOLDER)], check=False).returncode == 9
    assert (FOLDER / ".lock").exists()
    assert cli(*arguments) == 0
    assert not (FOLDER / ".lock").exists()
