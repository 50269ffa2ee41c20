"""No optimiser waits for the device: what its steps need of numbers is known on the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dreamprop.optim import SGD, Adam, AdamW, Adan, ParamGroup
from dreamprop.optim.moments import SKIPPED, MomentKey, ahead, moment_key
from dreamprop.optim.resize import resize_moments
from tests.device_reads import device_reads

SHAPES = {"a": (30, 7), "b": (5,), "c": ()}
CASES = [lambda g: SGD(g, 0.9), Adam, lambda g: AdamW(g, amsgrad=True), Adan]


@pytest.mark.parametrize("make", CASES)
def test_steps_read_nothing_from_the_device(make: Callable) -> None:
    """On a device that has no values to read."""
    optimizer = make([ParamGroup(tuple(SHAPES), 0.01)])
    params = {name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}
    moments = optimizer.init(params)
    with device_reads(0, "meta"):
        for step in range(3):
            params, moments = optimizer.update(params, moments, params, step)
            moments = optimizer.skip_update(moments)
        for step in range(6, 9):
            params, moments = optimizer.predict(params, moments, step)
        params, moments = optimizer.update(params, moments, params, 9)
    assert moments[SKIPPED].device.type == "cpu" and int(moments[SKIPPED]) == 3


def test_a_step_without_skipped_ones_reads_nothing_at_all() -> None:
    optimizer = Adam([ParamGroup(tuple(SHAPES), 0.01)])
    params = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    with device_reads(0):
        moments = optimizer.init(params)
        for step in range(3):
            params, moments = optimizer.update(params, moments, params, step)
            optimizer.predict(params, moments, step + 1)


@pytest.mark.parametrize(
    "read",
    [lambda x: bool(x.sum()), lambda x: x.sum().item(), lambda x: torch.equal(x, x), lambda x: x.tolist()],
)
def test_reads_are_counted(read: Callable) -> None:
    x = torch.ones(2)
    with device_reads(1), device_reads(0, "meta"):
        read(x)
    with pytest.raises(AssertionError, match="expected 0 reads"), device_reads(0):
        read(x)


@pytest.mark.parametrize("text", ["a/exp_avg", "net.0/a/exp_avg", "/ahead/net/a", "/skipped", "velocity"])
def test_a_name_of_a_moment_is_parsed_as_it_is_built(text: str) -> None:
    """Checkpoints keep these texts."""
    assert str(MomentKey.parse(text)) == text


def test_what_a_moment_belongs_to() -> None:
    assert MomentKey.parse(moment_key("net/a", "exp_avg")) == MomentKey("net/a", "exp_avg")
    assert MomentKey.parse("/ahead/net/a") == ahead("net/a") and ahead("a").parameter == "a"
    initial = {text: MomentKey.parse(text).initial for text in ("a/exp_avg", "velocity", "/ahead/a", SKIPPED)}
    assert initial == {"a/exp_avg": True, "velocity": True, "/ahead/a": False, "/skipped": False}
    moments = {"a/exp_avg": torch.arange(3), str(ahead("a")): torch.arange(3), SKIPPED: torch.tensor(2)}
    resized = resize_moments(moments, ["a"], torch.tensor([2, 0]))
    assert [m.tolist() for m in resized.values()] == [[2, 0], [2, 0], 2]
