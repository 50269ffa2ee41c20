"""A chain of an upstream system against Lightning's own `Trainer` on the same batches and seeds: bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dreamprop as dp
from dreamprop.rng import seeded
from dreamprop.state import State

from . import upstream

STEPS = 40
CPU = torch.device("cpu")

pytestmark = upstream.needs_checkout


def lightning(
    studio: Any,
    steps: int,
    *,
    resume: Path | None = None,
    chain: bool = False,
    how: dict[str, Any] | None = None,
    kept: Path | None = None,
    told: Callable[[Any], None] = lambda window: None,
    **options: Any,
) -> tuple[Any, Any]:
    """The system after steps of a real `Trainer`, its draws seeded as those of the chain are.

    Args:
        studio: threestudio's config.
        steps: to arrive at.
        resume: a checkpoint to go on from.
        chain: let the steps be solved, as a run of ours does.
        how: they are solved; exactly by default.
        kept: where to save a run that is ended.
        told: of what is accepted in each round; what it raises ends the run.
        options: of the trainer.
    """
    import pytorch_lightning as pl

    from dreamprop.threestudio import loading
    from dreamprop.threestudio.lightning_loop import solved

    data, system = loading.make(studio)
    from dreamprop.threestudio.checkpoint import status

    first = status(resume)[1] if resume else 0
    seed, fetched = studio.seed, [first]
    original = data.train_dataloader

    def train_dataloader() -> Any:
        loader = original()
        collate = loader.collate_fn

        def by_step(items: Any) -> Any:
            with seeded(seed, fetched[0], CPU, "batch"):
                fetched[0] += 1
                return collate(items)

        loader.collate_fn = by_step
        return loader

    class Seeds(pl.Callback):
        def on_train_batch_start(self, trainer: Any, system: Any, batch: Any, index: int) -> None:
            self.open = seeded(seed, index, CPU, "step")
            self.open.__enter__()

        def on_train_batch_end(self, *_: Any) -> None:
            self.open.__exit__(None, None, None)

    if not chain:
        data.train_dataloader = train_dataloader
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[] if chain else [Seeds()],
        **options,
    )
    if chain:

        def solve(process: Any, reached: Any, target: int, accept: Any) -> None:
            def after(round: Any) -> None:
                accept(round.window)
                told(round.window)

            exactly: Any = {"window": 2, "tolerance": 0}
            dp.solve(process, steps, state=reached, stop=target, callback=after, **(how or exactly))

        solved(trainer, system, seed, solve, lambda *_: None)
    try:
        trainer.fit(system, datamodule=data, ckpt_path=resume)
    except Exception:
        if kept:
            trainer.save_checkpoint(kept)
        raise
    assert trainer.global_step == steps
    return system, trainer


def same(system: Any, trainer: Any, state: State) -> None:
    """Parameters, moments, and every persistent buffer, the occupancy grid among them."""
    parameters, buffers = dict(system.named_parameters()), dict(system.named_buffers())
    optimizer = trainer.optimizers[0]
    for name, value in state.params.items():
        assert torch.equal(value, parameters[name]), name
        for what, moment in optimizer.state[parameters[name]].items():
            assert torch.equal(state.moments[f"{name}/{what}"], moment), (name, what)
    kept = [name for name in buffers if name in state.buffers]
    assert any("occs" in name for name in kept)
    for name in kept:
        assert torch.equal(state.buffers[name], buffers[name]), name


@pytest.mark.parametrize("name", ["dreamfusion-sd", "prolificdreamer"])
def test_the_chain_is_the_trainer_bit_for_bit(name: str, folder: Path) -> None:
    from dreamprop.threestudio import loading

    studio = upstream.studio(name, folder)
    process = loading.process(studio)
    start = process.init()
    if name == "prolificdreamer":
        assert any("lora" in parameter for parameter in start.params)
    sequential = dp.solve_sequential(process, STEPS, state=start).state
    same(*lightning(studio, STEPS), sequential)
    exact = dp.solve(process, STEPS, window=2, tolerance=0, state=start).state
    assert dp.state.equal(exact, sequential)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01},
        {"precision": "bf16-mixed", "gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    ],
    ids=["accumulate and clip", "autocast and clip"],
)
def test_what_the_trainer_was_asked_for(options: dict[str, Any], folder: Path) -> None:
    from dreamprop.threestudio import loading
    from dreamprop.threestudio.precision import step_settings

    studio = upstream.studio("dreamfusion-sd", folder)
    system, trainer = lightning(studio, 6, **options)
    process = loading.process(studio, settings=step_settings(trainer))
    same(system, trainer, dp.solve_sequential(process, 6).state)


@pytest.mark.parametrize(("first", "name"), [("there", "dreamfusion-sd"), ("here", "latentnerf")])
def test_checkpoints_go_both_ways(first: str, name: str, folder: Path) -> None:
    """Some steps here and the rest in plain threestudio, and the other way round, are a run in one piece."""
    from dreamprop.threestudio import loading

    studio = upstream.studio(name, folder)
    kept = folder / f"{first}.ckpt"
    _, trainer = lightning(studio, 5, chain=first == "here")
    trainer.save_checkpoint(kept)
    system, trainer = lightning(studio, 9, resume=kept, chain=first == "there")
    process = loading.process(upstream.studio(name, folder))
    whole = dp.solve_sequential(process, 9).state
    same(system, trainer, whole)
    for plan in trainer.lr_scheduler_configs:  # latentnerf's
        assert plan.scheduler.last_epoch == 9
    rates = [group.step for group in process.groups(9).values()]
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == rates


BUSY = [
    "system_type=busy-system",
    "system.optimizer.params.geometry.lr=0.01",
    "system.optimizer.params.background.lr=0.002",
    "system.scheduler.name=SequentialLR",
    "system.scheduler.interval=step",
    "system.scheduler.milestones=[4]",
    "system.scheduler.schedulers=[{name: LinearLR, args: {start_factor: 0.1, total_iters: 4}},"
    " {name: ExponentialLR, args: {gamma: 0.9}}]",
]


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=["plain", "accumulate"])
def test_an_extension_with_hooks_is_the_trainer_bit_for_bit(options: dict[str, Any], folder: Path) -> None:
    """It reads its rates and its step, writes gradients and attributes, and wakes late."""
    from . import extension  # noqa: F401, registers it

    studio = upstream.studio("dreamfusion-sd", folder, *BUSY)
    stepped, trainer = lightning(studio, 8, **options)
    solved, other = lightning(studio, 8, chain=True, **options)
    for name, value in stepped.state_dict().items():
        assert torch.equal(value, solved.state_dict()[name]), name
    assert [g["lr"] for g in trainer.optimizers[0].param_groups] == [
        g["lr"] for g in other.optimizers[0].param_groups
    ]
    assert stepped._losses == solved._losses and torch.equal(stepped.trace, solved.trace)


def test_an_accelerated_run_goes_on_bit_for_bit(folder: Path) -> None:
    """Stopped behind a round, or gone on with from a checkpoint on the way."""

    class Stopped(Exception):
        pass

    def stop(window: Any) -> None:
        if window.states[0].step >= 6:
            raise Stopped

    studio = upstream.studio("dreamfusion-sd", folder)
    how: dict[str, Any] = {"window": 4, "tolerance": 0.3, "evaluator": "batched"}
    whole, trainer = lightning(studio, 12, chain=True, how=how)
    kept = folder / "stopped.ckpt"
    with pytest.raises(Stopped):
        lightning(studio, 12, chain=True, how=how, kept=kept, told=stop)
    saved = torch.load(kept, weights_only=True)
    assert len(saved["dreamprop"]["ahead"]) > 0
    rest, other = lightning(studio, 12, chain=True, how=how, resume=kept)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    one, two = (t.optimizers[0].state_dict()["state"] for t in (trainer, other))
    assert all(torch.equal(v, two[i][what]) for i, moments in one.items() for what, v in moments.items())
    lightning(studio, saved["global_step"] + 1, resume=kept)  # plain threestudio passes our entry over
