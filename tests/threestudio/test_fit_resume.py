"""A `fit` that was stopped goes on from its checkpoint, bit for bit, with the guesses it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop.solver.window import Window
from dreamprop.state import State, equal
from dreamprop.threestudio.checkpoint import entry, restored
from dreamprop.threestudio.extra_state import NUMBERS

from .lightning_double import FAST, Light, run, same

pytestmark = pytest.mark.filterwarnings("ignore")


def test_going_on_from_a_stepped_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "first", 4, solve=False)
    [kept] = (tmp_path / "first").iterdir()
    ours, _ = run(tmp_path / "then", 9, solve=True, resume=kept)
    whole, _ = run(tmp_path / "whole", 9, solve=False)
    for (name, value), other in zip(ours.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("rule", FAST)
def test_an_accelerated_run_goes_on_bit_for_bit(rule: str, tmp_path: Path) -> None:
    """From where it was stopped, and from a checkpoint on the way: guesses, threshold and attributes are kept."""

    def fit(name: str, **more: Any) -> Any:
        return run(tmp_path / name, 12, solve=True, system=Light(memory=True), how=FAST[rule], **more)

    whole = fit("whole")
    fit("part", stop=6)
    stopped = tmp_path / "part" / "stopped.ckpt"
    on_the_way = tmp_path / "whole" / "epoch=0-step=8.ckpt"
    for path in (stopped, on_the_way):
        kept = torch.load(path, weights_only=True)
        assert 6 <= kept["global_step"] < 12 and len(kept["dreamprop"]["ahead"]) > 0
        assert (kept["dreamprop"]["threshold"] is None) == (rule == "step")
        same(fit(path.stem, resume=path), whole)
        del kept["dreamprop"]  # without it, it is another run
        torch.save(kept, tmp_path / "without.ckpt")
        ours, _ = fit("without", resume=tmp_path / "without.ckpt")
        assert not torch.equal(ours.background.weight, whole[0].background.weight)


def test_the_guesses_of_another_system_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "part", 12, solve=True, how=FAST["step"], stop=6)
    other = Light()
    other.geometry.encoding.width = 1.5
    ours, _ = run(tmp_path / "rest", 12, solve=True, system=other, resume=tmp_path / "part" / "stopped.ckpt")
    assert "the system is made with another geometry.encoding.width than it was" in capsys.readouterr().err
    assert ours.geometry.encoding.width == 1.6  # as its own schedule left it


def test_what_came_from_another_process_is_saved_by_itself(tmp_path: Path) -> None:
    """Its tensors are views, of several types, of the one block that it came in."""
    block = torch.zeros(1 << 20, dtype=torch.uint8)
    numbers, params = block[:16].view(torch.float64).view(1, 2), {"w": block[16:32].view(torch.float32)}
    buffers = {NUMBERS: numbers, "grid": block[32:36].view(torch.bool)}
    base = State(params, {}, buffers, 3)
    reached = Window((base, State(params, {"w/step": block[40:44].view(torch.float32)}, buffers, 4)))
    torch.save(entry(reached, {}, {NUMBERS}), tmp_path / "kept")
    assert (tmp_path / "kept").stat().st_size < 1 << 16
    again, dropped = restored(torch.load(tmp_path / "kept", weights_only=True), base, {})
    assert dropped == "" and all(equal(a, b) for a, b in zip(again.states, reached.states, strict=True))
