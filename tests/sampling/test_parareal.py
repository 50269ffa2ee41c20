"""Parareal against its plain double loop, against the sequential run, and against what its speed should be."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dreamprop as dp
from dreamprop.distributed.rendezvous import init_process_group
from dreamprop.errors import NonFiniteDrift
from dreamprop.evaluate.distributed import digest
from dreamprop.rng import generator
from dreamprop.sampling import Denoising, PureScheduler
from dreamprop.sampling.parareal import block_ends, differences, num_rounds, parareal
from dreamprop.state import equal
from tests.distributed.forks import forked
from tests.sampling.jumps import CHAINS, Gaussian, Ode
from tests.solver.chains import Toy, optimizer


def as_published(process: Any, num_steps: int, blocks: int) -> list[list[dp.State]]:
    """arXiv:2412.08292, algorithm 1, without an early stop: x[p][i], all sweeps over all blocks, nothing pipelined,
    nothing shared, nothing left out."""
    ends = block_ends(num_steps, blocks)

    def coarse(state: dp.State, i: int) -> dp.State:
        return process.jump(state, process.drift(state), ends[i])

    def fine(state: dp.State, i: int) -> dp.State:
        while state.step < ends[i]:
            state = process.update(state, process.drift(state))
        return state

    x = [process.init()]
    for i in range(1, blocks + 1):
        x.append(coarse(x[-1], i))
    sweeps, previous = [x], [None, *x[1:]]
    for _ in range(blocks):
        y = [None, *(fine(x[i - 1], i) for i in range(1, blocks + 1))]
        x = [x[0]]
        for i in range(1, blocks + 1):
            now = coarse(x[i - 1], i)
            params = {
                name: y[i].params[name] + (now.params[name] - previous[i].params[name]) for name in now.params
            }
            x.append(replace(y[i], params=params))
            previous[i] = now
        sweeps.append(x)
    return sweeps


@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from(sorted(CHAINS)), st.data())
@settings(max_examples=40, deadline=None)
def test_every_sweep_is_that_of_the_plain_double_loop(
    num_steps: int, blocks: int, name: str, data: st.DataObject
) -> None:
    blocks = min(blocks, num_steps)
    process = CHAINS[name]()
    sweeps = as_published(process, num_steps, blocks)
    sequential = [process.init()]
    for _ in range(num_steps):
        sequential.append(process.update(sequential[-1], process.drift(sequential[-1])))
    for i, end in enumerate(block_ends(num_steps, blocks)):
        for p in range(i, blocks + 1):
            assert equal(sweeps[p][i], sequential[end]), f"block {i} after sweep {p}"

    sweep = data.draw(st.integers(1, blocks))
    got = parareal(process, num_steps, blocks, tolerance=0.0, max_sweeps=sweep)
    assert equal(got.state, sweeps[sweep][-1])
    assert got.stats.num_rounds == num_rounds(num_steps, blocks, sweep)
    expected = [
        max(float((a.params[n] - b.params[n]).abs().mean(dtype=torch.float32)) for n in a.params)
        for a, b in zip((x[-1] for x in sweeps[1 : sweep + 1]), (x[-1] for x in sweeps), strict=False)
    ]
    assert differences(got.stats) == expected
    assert sum(got.stats.strides) == num_steps
    # each fine solve, and the coarse steps of the last sweep, whose drifts no fine solve shares
    work = sum(num_steps - end for end in block_ends(num_steps, blocks)[:sweep]) + blocks - sweep
    assert got.stats.num_drifts == work
    if sweep == blocks:
        assert got.stats.num_rounds == num_steps
        assert set(got.stats.strides) == {1}


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_called_exact_on_the_way_is(name: str) -> None:
    """And a round evaluates all that is ready, in one call."""
    process, calls, seen = CHAINS[name](), [], []

    def evaluator(chain: dp.Process, states: Sequence[dp.State]) -> list[dp.Drift]:
        calls.append([z.step for z in states])
        return dp.evaluate.serial(chain, states)

    sequential: dict[int, dp.State] = {}
    dp.solve_sequential(process, 20, callback=lambda round: sequential.update({round.step: round.state}))
    got = parareal(process, 20, 5, tolerance=0.0, evaluator=evaluator, callback=seen.append)
    assert [round.step for round in seen] == list(range(1, 21))
    assert all(equal(round.state, sequential[round.step]) for round in seen)
    assert [len(steps) for steps in calls] == got.stats.windows
    assert calls[:6] == [[0], [1, 4], [2, 5, 8], [3, 6, 9, 12], [7, 10, 13, 16, 4], [11, 14, 17, 5, 8]]


def test_the_exact_run_pays_for_every_sweep_and_one_block_for_nothing() -> None:
    exact = parareal(Ode(64), 64, tolerance=0.0)
    assert (exact.stats.num_rounds, exact.stats.num_drifts, len(differences(exact.stats))) == (
        64,
        64 * 9 / 2,
        8,
    )
    one = parareal(Ode(64), 64, 1, tolerance=0.0)
    assert (one.stats.num_rounds, one.stats.num_drifts) == (64, 64)
    assert equal(one.state, exact.state)


@pytest.mark.parametrize("kind", [Ode, Gaussian])
@pytest.mark.parametrize("root", [10, 20, 32])
def test_the_published_speed(kind: type[Ode], root: int) -> None:
    """A few sweeps of rounds in the order of the root of the steps, and nothing to see of it in the result."""
    num_steps = root**2
    process = kind(num_steps)
    sequential = dp.solve_sequential(process, num_steps).state
    got = parareal(process, num_steps, tolerance=1e-3)
    found = differences(got.stats)
    assert found[-1] < 1e-3 and all(error >= 1e-3 for error in found[:-1])
    assert len(found) <= 4 and got.stats.num_rounds == root + len(found) * (root - 1) < 5 * root
    errors = [(got.state.params[n] - sequential.params[n]).abs().mean() for n in sequential.params]
    assert max(errors) < found[-1]
    longer = parareal(process, num_steps, tolerance=1e-6)
    assert len(differences(longer.stats)) > len(found)
    assert differences(longer.stats)[: len(found)] == found


def test_the_worst_parameter_stops() -> None:
    """One that is there at once does not speak for the other."""

    class Uneven(Ode):
        def slope(self, name: str, z: Tensor, t: float) -> Tensor:
            return super().slope(name, z, t) if name == "a" else torch.ones_like(z)

    got = parareal(Uneven(36), 36, tolerance=1e-4)
    assert len(differences(got.stats)) > 1


def pictures() -> Denoising:
    """Two pictures at once by a scheduler that has a history."""
    from diffusers import DPMSolverMultistepScheduler

    def network(samples: Tensor, timesteps: Tensor, pictures: Tensor) -> Tensor:
        return (samples + pictures.view(-1, 1, 1, 1)).tanh()

    latents = torch.randn(2, 4, 6, 6, generator=generator(0, 0, "latents"))
    return Denoising(network, PureScheduler(DPMSolverMultistepScheduler(), 16), latents)


def told(process: Denoising, tolerance: float, evaluator: Any) -> list[Any]:
    """A result in short: every bit of the state, and what it took."""
    got = parareal(process, 16, tolerance=tolerance, evaluator=evaluator)
    return [digest(got.state), got.stats.num_rounds, got.stats.num_drifts, got.stats.errors]


def work(folder: Path, process: Denoising) -> None:
    """What one rank does."""
    init_process_group(torch.device("cpu"), timeout=60)
    evaluator = dp.evaluate.distributed(sub_batch=1, timeout=60)
    found = [told(process, tolerance, evaluator) for tolerance in (0.0, 0.02)]
    (folder / f"{os.environ['WORLD_SIZE']}-{os.environ['RANK']}.json").write_text(json.dumps(found))


def test_any_number_of_ranks_agrees_bit_for_bit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    exact, near = (told(pictures(), tolerance, "serial") for tolerance in (0.0, 0.02))
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(found) == ["1-0", "2-0", "2-1", "3-0", "3-1", "3-2"]
    assert all(rank == [exact, near] for rank in found.values())
    assert exact[0] == digest(dp.solve_sequential(pictures(), 16).state)
    assert exact[1] == 16 > near[1]


class Breaking(Ode):
    """The slope is not finite at one step, or at whatever is guessed to be there."""

    step: int = 13
    only_guesses: bool = False

    def drift(self, state: dp.State) -> dp.Drift:
        drift = super().drift(state)
        exact = dp.solve_sequential(Ode(self.num_steps), state.step).state
        if state.step == self.step and not (self.only_guesses and equal(exact, state)):
            drift.grads["b"][0, 0] = math.nan
        return drift


def test_what_is_not_finite_is_never_accepted() -> None:
    with pytest.raises(NonFiniteDrift, match=r"step 13.*'b'"):
        parareal(Breaking(16), 16, tolerance=0.0)
    with pytest.raises(NonFiniteDrift, match="'b'"):
        parareal(Breaking(16), 16, tolerance=1e9, max_sweeps=1)
    guessing = Breaking(16)
    guessing.only_guesses = True
    with pytest.raises(NonFiniteDrift, match="'b'"):
        parareal(guessing, 16, tolerance=1e9, max_sweeps=2)
    healed = parareal(guessing, 16, tolerance=1e9)
    assert equal(healed.state, dp.solve_sequential(Ode(16), 16).state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps must be an integer >= 1, got 0; give"),
        ({"num_steps": 10.0}, "num_steps must be an integer >= 1, got 10.0; give"),
        ({"blocks": 0}, r"blocks must be an integer in \[1, num_steps = 9\], got 0; use 3"),
        ({"blocks": 10}, r"blocks must be an integer in \[1, num_steps = 9\], got 10; use 3"),
        ({"tolerance": -0.1}, "tolerance must be >= 0, got -0.1; use 0"),
        ({"tolerance": math.nan}, "tolerance must be >= 0, got nan; use 0"),
        ({"max_sweeps": 0}, "max_sweeps must be an integer >= 1, got 0; use null"),
        (
            {"process": Ode(9, boundaries=(3,))},
            r"must keep its shapes, got boundaries at \[3\]; use dp.solve",
        ),
        ({"process": Toy(optimizer("SGD"))}, "must have jump.*, got Toy without; use dp.solve"),
    ],
)
def test_wrong_input_is_one_line(arguments: dict[str, Any], message: str) -> None:
    process = arguments.pop("process", Ode(9))
    with pytest.raises(ValueError, match=message) as refused:
        parareal(process, **{"num_steps": 9, "tolerance": 0.1, **arguments})
    assert "\n" not in str(refused.value)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = partial(work, Path(sys.argv[1]), pictures())
    sys.exit(sum(forked(size, rank) for size in (1, 2, 3)))
