"""A training that a signal stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamprop.prior import training as trainings


def stopped(train: Callable[[], object], step: int) -> None:
    """Train, with SIGTERM when so many steps are taken; it must end with the status that says so."""
    update = trainings.Training.update

    def update_and_stop(self: trainings.Training, loss: torch.Tensor, lr: float) -> float:
        value = update(self, loss, lr)
        if self.step == step:
            raise trainings.Interrupted(15)
        return value

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(trainings.Training, "update", update_and_stop)
        train()
    assert ended.value.code == 128 + 15


def assert_same(one: Path, two: Path) -> None:
    """Two files of tensors hold the same, bit for bit."""
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(second[name], tensor)] == []
