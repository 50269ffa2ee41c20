"""What is wrong with a config is told in a line, by its key, before anything is loaded or waited for."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dreamprop.cli import main
from dreamprop.cli import threestudio as command_line
from dreamprop.config.loader import InputError
from dreamprop.errors import NonFiniteDrift, RankFailed, RankLost
from dreamprop.runs.resume import step_of
from dreamprop.state import State, check_names, to
from dreamprop.threestudio import hub, limits, loading
from dreamprop.threestudio.checkpoint import status
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.refusals import theirs, words

pytest.importorskip("pytorch_lightning", reason="the extra threestudio is not installed")


def config(**sections: Any) -> Any:
    whole: dict[str, Any] = {"trainer": {"max_steps": 5}, "checkpoint": {}, "system": {}}
    return OmegaConf.create(whole | sections)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({}, "trainer.max_steps must be an integer > 0, got none"),
        ({"max_steps": -1}, "trainer.max_steps must be an integer > 0, got -1"),
        ({"max_steps": "many"}, "trainer.max_steps must be an integer > 0, got many"),
        ({"max_steps": 5, "limit_train_batches": 1}, "trainer.limit_train_batches must be left out, got 1"),
        (
            {"max_steps": 5, "limit_train_batches": 0.5},
            "trainer.limit_train_batches must be left out, got 0.5",
        ),
        ({"max_steps": 5, "max_epochs": 3}, "trainer.max_epochs must be left out, got 3"),
        ({"max_steps": 5, "max_time": "00:01:00:00"}, "trainer.max_time must be left out, got 00:01:00:00"),
        ({"max_steps": 5, "max_time": {"hours": 1}}, "trainer.max_time must be left out"),
        ({"max_steps": 5, "overfit_batches": 2}, "trainer.overfit_batches must be left out"),
        ({"max_steps": 5, "fast_dev_run": True}, "trainer.fast_dev_run must be left out"),
        (
            {"max_steps": 5, "val_check_interval": "00:00:10:00"},
            "trainer.val_check_interval must be a number of",
        ),
        ({"max_steps": 5, "devices": 2}, "trainer.devices must be left out, got 2; it is set by --device"),
        (
            {"max_steps": 5, "maxtime": 2},
            "trainer.maxtime is no setting of Lightning's trainer; did you mean max_time",
        ),
    ],
)
def test_where_a_run_ends_is_a_step(trainer: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        limits.check(config(trainer=trainer))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_leaves_them_out_may_be_written() -> None:
    none = {"limit_train_batches": 1.0, "max_epochs": -1, "max_time": None, "overfit_batches": 0.0}
    limits.check(config(trainer={"max_steps": 5, "val_check_interval": 3, "precision": "16-mixed"} | none))
    with pytest.raises(InputError, match=r"use checkpoint\.every_n_train_steps"):
        limits.check(config(checkpoint={"train_time_interval": {"minutes": 5}}))


def test_errors_of_theirs_are_told_by_the_key_of_the_config() -> None:
    @dataclass
    class Config:
        width: int = 3

    studio = config(system={"geometry_type": "main:a,foo", "geometry": {"nonsense": 1, "width": "wide"}})

    def told(act: Any) -> str:
        with pytest.raises(InputError) as caught, theirs(studio):
            act()
        return str(caught.value)

    assert told(lambda: {}["foo"]).startswith(
        "system.geometry_type must be registered with threestudio, got 'main:a,"
    )
    assert told(lambda: {}["bar"]) == "KeyError: 'bar'"
    assert told(lambda: Config(**studio.system.geometry)) == (
        "system.geometry.nonsense is not known to threestudio; drop it, or correct its name"
    )
    assert told(lambda: OmegaConf.structured(Config(width="wide"))).startswith(
        "system.geometry.width: Value 'wide'"
    )  # type: ignore[arg-type]
    assert words(NotAChain("a sentence\nof ours")) == "a sentence of ours"


def throw(error: Exception) -> None:
    raise error


def test_a_defect_of_ours_is_no_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What goes wrong in our code shows where; sentences, and what is wrong with a path, are lines."""

    def raised(act: Any) -> BaseException:
        with pytest.raises(Exception) as caught, theirs(config()):
            act()
        return caught.value

    missing = SimpleNamespace()
    assert type(raised(lambda: loading.refusal(missing))) is AttributeError
    # in PyTorch, called by us; and by Python's int(), whose words are no sentence of ours
    assert type(raised(lambda: to(State({"a": torch.zeros(1)}, {}, {}, 0), "nonsense"))) is RuntimeError
    assert type(raised(lambda: step_of(Path("step-x")))) is ValueError
    for stop in (RankFailed(1, "KeyError: 'a'"), RankLost([1], "is silent"), NonFiniteDrift(3, "g", "p")):
        assert raised(lambda stop=stop: throw(stop)) is stop
    for act, said in (
        (lambda: check_names("grads", [], ["a"]), "grads must name every tensor"),
        (lambda: status(tmp_path / "none.ckpt"), "No such file"),
    ):
        assert isinstance(error := raised(act), InputError) and said in str(error)

    path = tmp_path / "theirs.yaml"
    path.write_text("name: x\ndata_type: random-camera-datamodule\n")
    monkeypatch.setattr(command_line, "install", lambda *_: loading.refusal(missing))
    assert main(["--config", str(path), "--train", "--threestudio", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "AttributeError" in told and "error: " not in told
    laughs = [f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]" for before, name in pairwise("abcdefg")]
    path.write_text("\n".join(["a: &a [x]", *laughs]))
    assert main(["--config", str(path), "--train", "--threestudio", str(tmp_path)]) == 2
    assert "at most 10000 values" in capsys.readouterr().err


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    assert hub.is_hub_name("runwayml/stable-diffusion-v1-5") and hub.is_hub_name("bert-base-uncased")
    for name in ("", "here", "./there", "/there", "a/b/c", "load/zero123.ckpt"):
        assert not hub.is_hub_name(name)
    assert not hub.cached("a/b", str(tmp_path))
    kept = tmp_path / "models--a--b" / "snapshots" / "1" / "unet"
    kept.mkdir(parents=True)
    (kept / "config.json").touch()
    assert not hub.cached("a/b", str(tmp_path)), "without its weights"
    (kept / "model.safetensors").touch()
    assert hub.cached("a/b", str(tmp_path))


class Refuses(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_hub_that_answers_is_left_to_the_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it says; one that does not is waited for a moment alone, and once."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.chdir(tmp_path)

    @dataclass
    class Config:
        pretrained_model_name_or_path: str = "somebody/model"

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    registered = {"guide": SimpleNamespace(Config=Config)}
    monkeypatch.setitem(sys.modules, "threestudio", SimpleNamespace(__modules__=registered))
    studio = config(system={"guidance_type": "guide", "guidance": {"scale": 3}})
    [(key, name, _)] = hub.models(studio)
    assert (key, name) == ("system.guidance.pretrained_model_name_or_path", "somebody/model")
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        hub.check(studio)
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(InputError, match=r"does not answer; give a folder, connect, or set HF_ENDPOINT"):
            hub.check(studio)
        assert time.monotonic() - began < 10 * hub.SECONDS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        hub.check(studio)
    studio.system.guidance.pretrained_model_name_or_path = str(tmp_path)
    hub.check(studio)
