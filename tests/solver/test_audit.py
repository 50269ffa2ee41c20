"""The audit: drifts of accepted steps evaluated again at the states that were accepted."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

import dreamprop as dp
from dreamprop.distributed.layout import REPLICATED
from dreamprop.solver import audit
from dreamprop.solver.rollout import rollout
from dreamprop.state import equal
from tests.solver.chains import Toy, optimizer


def test_it_finds_what_the_tolerance_gave_up() -> None:
    """The differences are those between the drifts at the guesses and at the states that were accepted."""
    process = Toy(optimizer("Adam"))
    calls: list[list[dp.State]] = []

    def evaluate(process: Toy, states: list[dp.State]) -> list[dp.Drift]:
        calls.append(list(states))
        return [process.drift(state) for state in states]

    found = dp.solve(process, 40, 8, 3.0, evaluator=evaluate, audit=1.0)
    expected, base, left = [], process.init(), iter(calls)
    for stride in found.stats.strides:
        guesses = next(left)
        used = [process.drift(guess) for guess in guesses]
        rolled = rollout(process, base, used)
        for (audited,) in itertools.islice(left, stride - 1):
            slot = audited.step - base.step
            accepted = rolled[slot - 1]
            assert equal(audited, replace(accepted, moments={}))
            now = process.drift(accepted)
            expected.append(audit.relative_difference(accepted, now, used[slot], REPLICATED))
        base = rolled[stride - 1]
    assert found.stats.audits == expected and len(expected) > 20 and 0 < max(expected) < 2


def test_a_stricter_tolerance_gives_up_less() -> None:
    worst = [
        max(dp.solve(Toy(optimizer("Adam")), 60, 8, tolerance, audit=1.0).stats.audits)
        for tolerance in (0.02, 0.2, 2.0)
    ]
    assert worst[0] < worst[1] < worst[2]


def test_the_run_does_not_depend_on_it() -> None:
    runs = [dp.solve(Toy(optimizer("Adan")), 60, 8, 1.0, audit=share) for share in (0.0, 0.02, 0.5)]
    assert equal(runs[0].state, runs[1].state) and equal(runs[0].state, runs[2].state)
    assert not runs[0].stats.audits and runs[2].stats.audits
    assert runs[0].stats.strides == runs[2].stats.strides


@pytest.mark.parametrize(
    ("steps", "share", "least", "most"), [(500, 0.02, 10, 12), (20, 0.02, 1, 1), (20, 0, 0, 0)]
)
def test_it_looks_at_the_share_that_was_asked_for(steps: int, share: float, least: int, most: int) -> None:
    """About that many, and a short run is looked at once."""
    found = dp.solve(Toy(optimizer("Adam", 0.001)), steps, 8, 1.0, audit=share)
    assert least <= len(found.stats.audits) <= most


def test_an_exact_run_has_nothing_to_audit() -> None:
    assert dp.solve(Toy(optimizer("Adam")), 30, 8, 0, audit=1.0).stats.audits == []


def test_the_difference_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    a, b = ({"x": torch.randn(3, 4), "y": torch.randn(5)} for _ in range(2))
    one, other = (torch.cat([t.double().flatten() for t in part.values()]) for part in (a, b))
    expected = float((one - other).norm() / max(one.norm(), other.norm()))
    state = dp.State(a, {}, {}, 0)
    got = audit.relative_difference(state, dp.Drift(a), dp.Drift(b), REPLICATED)
    assert math.isclose(got, expected, rel_tol=1e-6)
    missing = audit.relative_difference(state, dp.Drift(a), dp.Drift({"x": a["x"]}), REPLICATED)
    assert math.isclose(missing, float(a["y"].norm() / one.norm()), rel_tol=1e-6)
    assert audit.relative_difference(state, dp.Drift(a), dp.Drift(a), REPLICATED) == 0
    spoilt = dp.Drift({**a, "y": torch.full((5,), math.nan)})
    assert audit.relative_difference(state, dp.Drift(a), spoilt, REPLICATED) == math.inf


def test_what_it_reports() -> None:
    assert audit.summary([]) is None
    assert audit.summary([0.1, 0.3, 0.2]) == {"count": 3, "median": 0.2, "worst": 0.3}
    assert audit.summary([0.1, math.inf]) == {"count": 2, "median": None, "worst": None}
    assert "3 accepted states differ by 20% (median), 30% (worst)" in audit.line(
        audit.summary([0.1, 0.3, 0.2])
    )


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="audit must lie in"):
        dp.solve(Toy(optimizer("Adam")), 10, 4, audit=share)
