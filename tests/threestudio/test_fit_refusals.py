"""What a `fit` must not do between the steps that it solves is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dreamprop.threestudio.errors import NotAChain

from .lightning_double import Light, Seeds, run

pytestmark = pytest.mark.filterwarnings("ignore")


class Cools(Light):
    def on_validation_end(self) -> None:
        self.trainer.optimizers[0].param_groups[0]["lr"] = 1e-4


def test_a_rate_that_is_set_between_the_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        NotAChain, match=r"lr of the optimiser's group geometry must be .* at step 6"
    ) as caught:
        run(tmp_path / "a", 10, solve=True, system=Cools())
    assert "\n" not in str(caught.value)


def test_options_of_a_checkpoint_that_are_not_those_of_the_config_are_refused(tmp_path: Path) -> None:
    """Lightning would go on with those of the checkpoint, whatever the config says."""
    run(tmp_path / "first", 4, solve=False)
    [kept] = (tmp_path / "first").iterdir()
    words = "weight_decay of the optimiser's group background must be 0.02 at step 4"
    with pytest.raises(NotAChain, match=re.escape(words)):
        run(tmp_path / "then", 9, solve=True, system=Light(rate=0.02), resume=kept)


def test_a_callback_of_the_steps_is_refused(tmp_path: Path) -> None:
    class Watches(Light):
        def configure_callbacks(self) -> Any:
            return [Seeds()]

    with pytest.raises(NotAChain, match=r"got Seeds.on_train_batch_start") as caught:
        run(tmp_path / "a", 4, solve=True, system=Watches())
    assert "\n" not in str(caught.value)
