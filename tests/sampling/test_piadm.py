"""Blocks of Picard sweeps: exact with as many sweeps as points, near long before, the same on any number of ranks."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.evaluate.distributed import digest
from dreamprop.sampling.corrector import Corrector
from dreamprop.sampling.gaussian_law import gaussian_law
from dreamprop.sampling.mixture import GaussianMixture
from dreamprop.sampling.piadm import block_times, reverse_chain
from dreamprop.sampling.picard_blocks import Block, solve_blocks
from dreamprop.sampling.score_chain import Score, ScoreChain, gaussian
from dreamprop.state import equal

from .score_ranks import RANKS, chains

F64 = torch.float64
TARGET = GaussianMixture(
    torch.tensor([[0.0, 1.0, -2.0], [2.0, 0.0, 1.0]], dtype=F64),
    torch.tensor([[0.2, 1.0, 3.0], [0.4, 0.3, 0.5]], dtype=F64),
    torch.tensor([0.3, 0.7], dtype=F64),
)
SINGLE = GaussianMixture(TARGET.means[:1], TARGET.variances[:1], torch.ones(1, dtype=F64))
FORMS = ["sde", "ode"]


def counted(target: GaussianMixture, calls: list[int]) -> Score:
    """The score, with the rows that each call is asked for in `calls`."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return target.score(x, t)

    return score


def make(form: str, sweeps: int, points: int = 6, corrector: bool = False) -> tuple[ScoreChain, list[Block]]:
    corrected = Corrector(num_steps=3, sweeps=min(sweeps, 3)) if corrector else None
    times = block_times(6.0, 0.01, 3, points)
    return reverse_chain(
        TARGET.score, gaussian((5, 3), 0, F64), times, form=form, sweeps=sweeps, corrector=corrected
    )


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_as_many_sweeps_as_points_are_the_sequential_chain_bit_for_bit(form: str, corrector: bool) -> None:
    chain, blocks = make(form, 6, corrector=corrector)
    plain = dp.solve_sequential(chain, len(chain.steps))
    swept = solve_blocks(chain, blocks, evaluator="serial")
    assert equal(swept.state, plain.state)
    assert swept.stats.num_rounds == sum(block.num_steps for block in blocks)
    short, blocks = make(form, 2, corrector=corrector)
    assert not equal(solve_blocks(short, blocks, evaluator="serial").state, plain.state)
    sliding = dp.solve(chain, len(chain.steps), window=5, tolerance=0.0)
    assert equal(sliding.state, plain.state) and sliding.stats.num_rounds <= len(chain.steps)


@pytest.mark.parametrize("form", FORMS)
def test_the_sums_are_the_published_ones(form: str) -> None:
    """arXiv:2405.15986, algorithm 1, written with its sums: y_m from y_0 and the scores of the last sweep."""
    points, sweeps = 6, 3
    chain, blocks = make(form, sweeps, points)
    weight = 2.0 if form == "sde" else 1.0
    y0, step = chain.init().params["x"], 0
    for times in block_times(6.0, 0.01, 3, points):
        t = torch.tensor(times, dtype=F64)
        tau, eps = t[0] - t, t[:-1] - t[1:]
        xi = [chain.noise(step + j, "noise/x", y0) for j in range(points)]
        y = [y0] * (points + 1)
        for _ in range(sweeps):
            scores = [TARGET.score(y[j], t[j]) for j in range(points)]
            y = [
                torch.exp(tau[m] / 2) * y0
                + sum(
                    torch.exp((tau[m] - tau[j + 1]) / 2)
                    * (
                        weight * torch.expm1(eps[j] / 2) * scores[j]
                        + (torch.sqrt(torch.expm1(eps[j])) * xi[j] if form == "sde" else 0)
                    )
                    for j in range(m)
                )
                for m in range(points + 1)
            ]
        y0, step = y[-1], step + points
    torch.testing.assert_close(solve_blocks(chain, blocks).state.params["x"], y0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_error_of_sweeps_falls_faster_than_any_power(form: str) -> None:
    """(L h)^k / k!: each sweep gains more than the one before."""
    chain, _ = make(form, 1, points=24)
    exact = dp.solve_sequential(chain, len(chain.steps)).state.params["x"]
    off = []
    for sweeps in (4, 8, 12, 16):
        chain, blocks = make(form, sweeps, points=24)
        off.append((solve_blocks(chain, blocks).state.params["x"] - exact).abs().max().item())
    gains = [a / b for a, b in itertools.pairwise(off)]
    assert off[-1] < 1e-4 and gains == sorted(gains) and gains[-1] > 20


def test_a_sweep_is_one_call_of_the_score() -> None:
    calls: list[int] = []
    times = block_times(6.0, 0.01, 2, 5)
    chain, blocks = reverse_chain(counted(TARGET, calls), gaussian((7, 3), 0, F64), times, sweeps=3)
    stats = solve_blocks(chain, blocks).stats
    assert calls == [35, 28, 21] * 2
    assert (stats.num_rounds, stats.num_drifts) == (6, 24)


def test_the_corrector_mends_the_law() -> None:
    """A coarse ODE is nearer to the target's law with a corrector at its noise level."""
    times = [[4.0 - 0.4 * i for i in range(10)]]
    off = []
    for corrector in (None, Corrector(num_steps=120, sweeps=1, duration=40.0)):
        chain, _ = reverse_chain(
            SINGLE.score, torch.zeros(1, 3, dtype=F64), times, form="ode", sweeps=10, corrector=corrector
        )
        mean, variance, _ = gaussian_law(chain, lambda c: dp.solve_sequential(c, len(c.steps)))
        means, variances = SINGLE.noised(torch.tensor(times[0][-1], dtype=F64))
        off.append(
            max((mean - means[0, 0]).abs().max().item(), (variance - variances[0, 0]).abs().max().item())
        )
    assert off[1] < off[0] / 5


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What real processes found: every chain on 1, 2 and 3 of them, by process."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("score_ranks.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("name", chains())
def test_any_number_of_ranks_gives_the_same_bits(name: str, ranks: dict[str, dict[str, str]]) -> None:
    chain, blocks = chains()[name]
    alone = digest(solve_blocks(chain, blocks, evaluator="serial").state)
    assert set(ranks) == {f"{size}-{rank}" for size in RANKS for rank in range(size)}
    assert all(found[name] == alone for found in ranks.values())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: block_times(6.0, 0.01, 0, 4), "blocks must be >= 1, got 0"),
        (lambda: block_times(6.0, 0.0, 3, 4), "end must lie in"),
        (lambda: make("sde", 0), "sweeps of a block must be an integer >= 1, got 0"),
        (lambda: make("heun", 2), "form must be one of sde, ode, got 'heun'"),
        (lambda: Corrector(num_steps=0), "num_steps must be >= 1"),
        (lambda: Corrector(duration=0.0), "duration of the corrector must be > 0"),
        (lambda: reverse_chain(TARGET.score, torch.zeros(1, 3), [[1.0, 2.0]], sweeps=1), "times must fall"),
        (
            lambda: reverse_chain(
                TARGET.score, torch.zeros(1, 3), [[1, 0]], sweeps=1, form="ode", corrector=Corrector()
            ),
            "stop earlier",
        ),
    ],
)
def test_wrong_input_is_one_line(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_a_score_that_is_not_finite_stops_the_run() -> None:
    chain, blocks = reverse_chain(
        lambda x, t: torch.where(t[:, None] < 3, torch.nan, x), torch.ones(2, 3), [[4, 3, 2, 1]], sweeps=3
    )
    with pytest.raises(ArithmeticError, match="step 2"):
        solve_blocks(chain, blocks)
