"""The small double under Lightning's own `fit`, stepped or solved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.rng import seeded

from . import double
from .double import CPU, System

lightning = pytest.importorskip("pytorch_lightning", reason="the extra threestudio is not installed")
SEED = 3
"""Of the draws of a run."""


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
    """Each stepped step draws what it draws where it is solved."""

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


FAST: dict[str, dict[str, Any]] = {
    "step": {"window": 4, "tolerance": 1.0},
    "paper": {"window": 4, "tolerance": 1.0, "error_rule": "paper", "threshold": 300.0},
}
"""Options that let a run guess, by its error rule."""
