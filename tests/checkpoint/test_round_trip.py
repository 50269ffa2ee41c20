"""What is saved comes back whole, to the last bit; what cannot be saved is told before anything is written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.solver.window import Window
from dreamprop.state import clone, equal
from tests.checkpoint.windows import SMALL, rounds, same
from tests.solver.chains import Growing, optimizer


def test_a_run_goes_on_from_disk_bit_for_bit(tmp_path: Path) -> None:
    process = Growing(optimizer("Adan"), torch.float32)
    half = dp.solve(process, 14, 5, 0).state
    path = checkpoint.save(tmp_path / "new", half, {"prompt": "a red torus"})
    assert path.name == "step-000014.safetensors"
    state, meta = checkpoint.load(checkpoint.latest(tmp_path / "new"))
    assert equal(state, half) and meta == {"prompt": "a red torus"}
    assert equal(dp.solve(process, 25, 5, 0, state=state).state, dp.solve_sequential(process, 25).state)
    assert not list((tmp_path / "new").glob(".*"))


@pytest.mark.parametrize("how", [{}, {"error_rule": "paper", "threshold": 3e3}])
def test_what_a_round_leaves_comes_back_whole(tmp_path: Path, how: dict[str, Any]) -> None:
    found = rounds(window=8, **how)
    assert max(len(window.states) for window in found) > 2
    for window in found:
        path = checkpoint.save(tmp_path, window, {})
        again, _ = checkpoint.load_window(path)
        assert same(again, window) and same(Window((checkpoint.load(path)[0],)), Window(window.states[:1]))


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, math.inf])
def test_the_threshold_comes_back(tmp_path: Path, threshold: float | None) -> None:
    path = checkpoint.save(tmp_path, Window((SMALL,), threshold), {})
    assert checkpoint.load_window(path)[0].threshold == threshold


def test_tensors_that_share_memory_or_have_holes(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    state = dp.State({"a": x, "b": x.T, "c": x[:, 1]}, {"a/m": x}, {"n": torch.tensor(3), "e": x[:0]}, 2)
    assert equal(checkpoint.load(checkpoint.save(tmp_path, state, {}))[0], state)


def test_every_type_shape_and_name_comes_back(tmp_path: Path) -> None:
    z = torch.randn(4, 3).to(torch.complex64)
    params = {
        "z/last": torch.tensor([math.nan, -0.0, math.inf, 5e-324], dtype=torch.float64),
        "": torch.tensor(7, dtype=torch.uint64),
        "params/a": torch.empty(0, 3, 0),
        "ahead/1/params/ü \n": torch.tensor(True),
        "half": torch.randn(3).to(torch.bfloat16),
        "eighth": torch.randn(3).to(torch.float8_e4m3fn),
        "conjugate": z.conj(),
        "negative": z.conj().imag,
        "one negative": z[0, 0].conj().imag,
    }
    states = (dp.State(params, {}, {}, 7), dp.State({}, {}, {}, 8), dp.State(params, {"m/": z}, {"b": z}, 9))
    again, meta = checkpoint.load_window(checkpoint.save(tmp_path, Window(states), {"ö": [1e-17, None]}))
    assert same(again, Window(states)) and meta == {"ö": [1e-17, None]}
    tensors = again.states[0].params
    assert torch.equal(tensors["conjugate"], z.conj()) and torch.equal(tensors["negative"], -z.imag)
    assert tensors["one negative"] == -z[0, 0].imag


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (4, 3, 1, 1), (1, 3, 2, 2)])
def test_tensors_lie_in_memory_as_they_did(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Sums go along memory, and libraries choose by its alignment: both decide the last bit."""
    usual = torch.randn(shape)
    other = usual.to(memory_format=torch.channels_last)
    state = dp.State({"other": other, "usual": usual, "byte": torch.zeros(3, dtype=torch.uint8)}, {}, {}, 0)
    tensors = checkpoint.load(checkpoint.save(tmp_path, state, {}))[0].params
    assert torch.equal(tensors["other"], usual)
    assert [t.stride() for t in tensors.values()] == [t.stride() for t in state.params.values()]
    assert all(t.data_ptr() % 64 == 0 for t in tensors.values())


def test_saved_tensors_are_not_those_of_the_run(tmp_path: Path) -> None:
    state = clone(SMALL)
    path = checkpoint.save(tmp_path, state, {})
    again, _ = checkpoint.load(path)
    again.params["a"].add_(1)
    assert equal(state, SMALL) and equal(checkpoint.load(path)[0], SMALL)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (dp.State({"a": torch.zeros(2, dtype=torch.complex128)}, {}, {}, 0), "got torch.complex128 for params/a"),
        (dp.State({}, {}, {"i": torch.eye(2).to_sparse()}, 0), "got torch.sparse_coo for buffers/i"),
        (Window((SMALL, replace(SMALL, step=3))), r"got \[1, 3\]"),
        (replace(SMALL, step=-1), r"got \[-1\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_told(tmp_path: Path, state: dp.State | Window, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path, state, {})
    assert not list(tmp_path.iterdir())
