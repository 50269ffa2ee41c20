"""Lightning's own `fit` of the small double, stepped and solved: the same parameters, checkpoint and counters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.rng import seeded
from dreamprop.state import State

from . import double
from .double import CPU, System

lightning = pytest.importorskip("pytorch_lightning", reason="the extra threestudio is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SEED = 3


class Light(System, lightning.LightningModule):  # type: ignore[misc, name-defined]
    """The double as Lightning wants it."""

    def validation_step(self, batch: Any, index: int) -> None:
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


def run(
    place: Path, steps: int, *, solve: bool, resume: Path | None = None, **options: Any
) -> tuple[Any, Any]:
    from dreamprop.threestudio.fit import solved

    system = Light(schedule=True)
    keep = lightning.callbacks.ModelCheckpoint(dirpath=place, save_top_k=-1, every_n_train_steps=4)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=6,
        callbacks=[keep] if solve else [keep, Seeds()],
        **options,
    )
    if solve:

        def chain(process: Any, state: State, target: int, accept: Any) -> State:
            return dp.solve(process, target, window=3, tolerance=0, state=state).state

        solved(trainer, system, SEED, chain, lambda *_: None)
    data = double.loader() if solve else loader()
    trainer.fit(system, data, [torch.zeros(1)], ckpt_path=resume)
    return system, trainer


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
        assert a.keys() == b.keys()
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
