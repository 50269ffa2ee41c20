"""How often the program waits for the device: twice a round, and never inside its parts."""

from __future__ import annotations

from pathlib import Path

import torch

import dreamprop as dp
from dreamprop.solver.predict import momentum
from dreamprop.solver.rollout import rollout
from dreamprop.solver.window import fill
from tests.cuda import scene
from tests.cuda.chain import Chain
from tests.cuda.reads import reads


def test_a_read_is_seen(device: torch.device) -> None:
    x = torch.ones(3, device=device)
    with reads(device) as found:
        x + 1
    assert not found
    with reads(device) as found:
        bool(x.sum() > 2)
        torch.equal(x, x + 1)
    assert len(found) >= 2


def test_rollout_and_guesses_wait_for_nothing(device: torch.device) -> None:
    process = Chain(device)
    base = process.update(process.init(), process.drift(process.init()))
    with reads(device) as found:
        guesses = fill([base], 4, lambda state: momentum(process, state), {})
        rollout(process, base, [process.drift(state) for state in guesses])
    assert not found


def test_a_round_waits_twice(device: torch.device) -> None:
    process, first = Chain(device), Chain(device).init()
    dp.solve(process, 12, 4, state=first, evaluator="serial", audit=0)  # what is only made once
    with reads(device) as found:
        stats = dp.solve(process, 12, 4, state=first, evaluator="serial", audit=0).stats
    # whether the drifts are finite, before anything is made of them, and how good the guesses were
    assert stats.num_rounds > 2 and len(found) <= 2 * stats.num_rounds, found


def test_a_wider_window_waits_no_more(model: Path, device: torch.device) -> None:
    process = scene.make(model, device)
    states = scene.walk(process, 6)
    waits = []
    for count in (2, 6):
        with reads(device) as found:
            process.drift_window(states[:count])
        # draws are made on the host: only where that is the device, too, is each step's look at its timesteps a read
        waits.append(len(found) - count * (device.type == "cpu"))
    assert waits[0] == waits[1] > 0, "the samples that are kept are counted once, draws are copied together"
