"""Lightning's own `fit` of the small double, stepped and solved: the same parameters, checkpoint and counters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.rng import seeded
from dreamprop.solver.window import Window
from dreamprop.state import State, equal
from dreamprop.threestudio.checkpoint import entry, restored
from dreamprop.threestudio.errors import NotAChain
from dreamprop.threestudio.extra_state import NUMBERS

from . import double
from .double import CPU, System

lightning = pytest.importorskip("pytorch_lightning", reason="the extra threestudio is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SEED = 3


class Light(System, lightning.LightningModule):  # type: ignore[misc, name-defined]
    """The double as Lightning wants it.

    Args:
        memory: steps read what the steps before them have left in an attribute, which plain checkpoints do not keep.
    """

    def __init__(self, memory: bool = False, rate: float = 0.01) -> None:
        super().__init__(schedule=True)
        self.heat, self._memory, self.rate = 1.0, memory, rate

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        made["optimizer"].param_groups[1]["weight_decay"] = self.rate
        return made

    def training_step(self, batch: Any, index: int) -> Any:
        out = super().training_step(batch, index)
        if self._memory:
            self.heat = 0.9 * self.heat + 0.1 * float(torch.tanh(out["loss"].detach()))
        return {"loss": out["loss"] * self.heat}

    def validation_step(self, batch: Any, index: int) -> None:
        self.do_update_step(0, self.trainer.global_step)
        self.validated = [*getattr(self, "validated", []), self.trainer.global_step]


class Seeds(lightning.Callback):  # type: ignore[misc, name-defined]
    def on_train_batch_start(self, trainer: Any, system: Any, batch: Any, index: int) -> None:
        self.open = seeded(SEED, index, CPU, "step")
        self.open.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.open.__exit__(None, None, None)


def loader() -> Any:
    """Batches seeded by their index."""
    made, fetched = double.loader(), [0]
    collate = made.collate_fn

    def by_step(items: Any) -> Any:
        with seeded(SEED, fetched[0], CPU, "batch"):
            fetched[0] += 1
            return collate(items)

    made.collate_fn = by_step
    return made


class Stopped(BaseException):
    """What ends a run from outside."""


def run(
    place: Path,
    steps: int,
    *,
    solve: bool,
    resume: Path | None = None,
    system: Any = None,
    how: dict[str, Any] | None = None,
    stop: int | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """A system that was fitted, and its trainer.

    Args:
        place: of the checkpoints.
        steps: to arrive at.
        solve: or step.
        resume: a checkpoint to go on from.
        system: to fit.
        how: it is solved; exactly by default.
        stop: end the run behind the first round that arrives there, and save it.
        options: of the trainer.
    """
    from dreamprop.threestudio.lightning_loop import solved

    system = system or Light()
    keep = lightning.callbacks.ModelCheckpoint(dirpath=place, save_top_k=-1, every_n_train_steps=4)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[keep, *options.pop("callbacks", [])] if solve else [keep, Seeds()],
        **{"val_check_interval": 6, **options},
    )
    if solve:

        def chain(process: Any, reached: Any, target: int, accept: Any) -> None:
            def after(round: Any) -> None:
                accept(round.window)
                if stop is not None and round.step >= stop:
                    raise Stopped

            options: Any = {"window": 3, "tolerance": 0, **(how or {})}
            dp.solve(process, steps, state=reached, stop=target, callback=after, **options)

        solved(trainer, system, SEED, chain, lambda *_: None)
    data = double.loader() if solve else loader()
    try:
        trainer.fit(system, data, [torch.zeros(1)], ckpt_path=resume)
    except Stopped:
        trainer.save_checkpoint(place / "stopped.ckpt")
    return system, trainer


def same(one: Any, other: Any) -> None:
    """Systems and their optimisers, in every bit."""
    (a, first), (b, second) = one, other
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    moments, others = (trainer.optimizers[0].state_dict()["state"] for trainer in (first, second))
    for key, known in moments.items():
        assert all(torch.equal(value, others[key][what]) for what, value in known.items())
    assert a.heat == b.heat


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


def test_going_on_from_a_stepped_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "first", 4, solve=False)
    [kept] = (tmp_path / "first").iterdir()
    ours, _ = run(tmp_path / "then", 9, solve=True, resume=kept)
    whole, _ = run(tmp_path / "whole", 9, solve=False)
    for (name, value), other in zip(ours.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


FAST: dict[str, dict[str, Any]] = {
    "step": {"window": 4, "tolerance": 1.0},
    "paper": {"window": 4, "tolerance": 1.0, "error_rule": "paper", "threshold": 300.0},
}


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


def test_the_guesses_of_another_system_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "part", 12, solve=True, how=FAST["step"], stop=6)
    other = Light()
    other.geometry.encoding.width = 1.5
    ours, _ = run(tmp_path / "rest", 12, solve=True, system=other, resume=tmp_path / "part" / "stopped.ckpt")
    assert "the system is made with another geometry.encoding.width than it was" in capsys.readouterr().err
    assert ours.geometry.encoding.width == 1.6  # as its own schedule left it


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
