"""A run of a threestudio system that chooses its windows, and one that follows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from . import upstream
from .test_launch import launch, small


@upstream.needs_checkout
def test_windows_that_a_run_chose_are_followed_to_the_same_bits(folder: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="threestudio's videos need imageio-ffmpeg")
    place, states = folder / "outputs" / "dreamfusion-sd", []
    for tag, window in (("chosen", "auto"), ("followed", str(place / "chosen"))):
        steps = (f"tag={tag}", "trainer.max_steps=24", "trainer.val_check_interval=9")
        done = launch(folder, *small(folder, *steps), "--train", f"parallel.window={window}")
        assert done.returncode == 0, done.stderr
        states.append(torch.load(place / tag / "ckpts" / "last.ckpt", weights_only=True)["state_dict"])
    one, two = states
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    chosen, followed = ((place / tag / "windows.jsonl").read_text() for tag in ("chosen", "followed"))
    summary = json.loads((place / "chosen" / "summary.json").read_text())
    assert chosen == followed and summary["windows"] == [json.loads(line) for line in chosen.splitlines()]
