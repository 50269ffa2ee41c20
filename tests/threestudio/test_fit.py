"""Lightning's own `fit` of the small double, stepped and solved: the same parameters, checkpoints and hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .lightning_double import FAST, Light, lightning, run, same

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}],
    ids=["plain", "accumulate and clip"],
)
def test_solved_is_stepped(options: dict[str, Any], tmp_path: Path) -> None:
    ours, _ = run(tmp_path / "a", 10, solve=True, **options)
    theirs, _ = run(tmp_path / "b", 10, solve=False, **options)
    for (name, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert ours.validated == theirs.validated
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(
        p.name for p in (tmp_path / "b").iterdir()
    )
    for path in (tmp_path / "a").iterdir():
        a = torch.load(path, weights_only=True)
        b = torch.load(tmp_path / "b" / path.name, weights_only=True)
        assert a.keys() == {*b.keys(), "dreamprop"}
        assert a["global_step"] == b["global_step"]
        counters, others = a["loops"]["fit_loop"], b["loops"]["fit_loop"]
        for key in counters.keys() | others.keys():
            assert counters[key] == others[key], key
        assert a["lr_schedulers"] == b["lr_schedulers"]
        first, second = a["optimizer_states"][0], b["optimizer_states"][0]
        assert first["param_groups"] == second["param_groups"]
        for key, moments in first["state"].items():
            assert all(torch.equal(moments[what], second["state"][key][what]) for what in moments)


def test_windows_cross_what_is_due(tmp_path: Path) -> None:
    """A validation on the way cuts no window: the steps behind it are guessed already when they are solved."""
    seen: list[int] = []
    ahead: list[int] = []

    class Watches(Light):
        def on_validation_end(self) -> None:
            seen.append(self.trainer.global_step)
            ahead.append(len(self.trainer.fit_loop.epoch_loop.reached.states) - 1)

    run(tmp_path, 12, solve=True, system=Watches(), how=FAST["step"], val_check_interval=3)
    assert seen == [3, 6, 9, 12]
    assert max(ahead[:-1]) > 0 and ahead[-1] == 0


class Meddles(Light):
    """Changes what training reads, while it validates."""

    def validation_step(self, batch: Any, index: int) -> None:
        super().validation_step(batch, index)
        self.heat *= 0.5
        with torch.no_grad():
            self.background.weight.mul_(0.5)


def test_what_validation_changes_counts(tmp_path: Path) -> None:
    ours = run(tmp_path / "a", 10, solve=True, system=Meddles(), val_check_interval=3)
    same(ours, run(tmp_path / "b", 10, solve=False, system=Meddles(), val_check_interval=3))
    assert ours[0].heat == 0.5**3


def test_a_schedule_of_epochs_is_shown_as_it_is(tmp_path: Path) -> None:
    """Its epoch never ends; and what Lightning's own methods give is the step's."""
    seen: list[Any] = []

    class Epochs(Light):
        def configure_optimizers(self) -> Any:
            made = super().configure_optimizers()
            made["lr_scheduler"]["interval"] = "epoch"
            return made

        def training_step(self, batch: Any, index: int) -> Any:
            group = self.optimizers().param_groups[0]
            seen.append((self.lr_schedulers().last_epoch, group["lr"], self.trainer.global_step == index))
            return super().training_step(batch, index)

    run(tmp_path / "a", 4, solve=True, system=Epochs())
    assert set(seen) == {(0, 0.002, True)}


def test_every_hook_that_lightning_calls_is_called(tmp_path: Path) -> None:
    """In the same order around the steps, and with the same arguments inside them."""
    names = [name for name in dir(lightning.LightningModule) if name.startswith("on_") and name != "on_gpu"]
    told: list[Any] = []

    def hook(name: str) -> Any:
        def call(self: Any, *args: Any, **named: Any) -> Any:
            index = [value for value in args if isinstance(value, int)]
            batch = "_batch_" in name or "backward" in name or name == "on_before_optimizer_step"
            told.append((name, batch, self.trainer.global_step, *index))
            before = getattr(super(kind, self), name, None)
            return before(*args, **named) if before else None

        return call

    kind = type("Hooked", (Light,), {name: hook(name) for name in names if name != "on_before_zero_grad"})
    runs = []
    for solve in (True, False):
        told.clear()
        run(tmp_path / str(solve), 7, solve=solve, system=kind(), how={"window": 1}, val_check_interval=3)
        around = [(name, step) for name, batch, step, *_ in told if not batch]
        runs.append((around, {call for call in told if call[1]}))
    (around, inside), (others, within) = runs
    assert around == others
    assert {"on_fit_start", "on_train_epoch_start", "on_train_epoch_end"} <= {name for name, _ in around}
    assert inside == within and ("on_train_batch_end", True, 7, 6) in inside
