"""A run that goes on from disk is the run that was never stopped: every bit of the state, and every stride."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.solver.solution import Round
from dreamprop.solver.window import Window
from dreamprop.state import equal
from tests.solver.chains import Growing, Toy, optimizer

STEPS = 17
RULES: dict[str, dict[str, Any]] = {
    "step": {"tolerance": 1.0},
    "paper": {"error_rule": "paper", "threshold": 3e3},
}
Make = Callable[[], dp.Process]


def toy(name: str, growing: bool = True) -> Make:
    return lambda: (Growing if growing else Toy)(optimizer(name), torch.float32)


def stopped(folder: Path, make: Make, window: int, **how: Any) -> tuple[dp.Solution, list[Path]]:
    """A run, and what is on the disk when it is stopped behind each of its rounds but the last."""
    paths: list[Path] = []

    def stop(round: Round) -> None:
        if round.step < STEPS:
            paths.append(checkpoint.save(folder, round.window, {"rounds": round.round + 1}))

    return dp.solve(make(), STEPS, window, callback=stop, **how), paths


def goes_on(folder: Path, make: Make, window: int, every: int = 1, **how: Any) -> int:
    """Stop behind rounds of a run and go on in a process made anew; the most states that lay ahead."""
    whole, paths = stopped(folder, make, window, **how)
    ahead = 0
    for path in paths[::every]:
        found, meta = checkpoint.load_window(path)
        rest = dp.solve(make(), STEPS, window, state=found, **how)
        assert equal(rest.state, whole.state), path
        assert rest.stats.strides == whole.stats.strides[meta["rounds"] :], path
        assert rest.stats.errors == whole.stats.errors[meta["rounds"] :], path
        ahead = max(ahead, len(found.states) - 1)
    assert sum(whole.stats.strides) == STEPS
    return ahead


@pytest.mark.parametrize("predictor", ["momentum", "hold"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "window", "growing"), [("SGD", 3, True), ("Adam", 8, False), ("Adan", 8, True)]
)
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, name: str, window: int, growing: bool, rule: str, predictor: str
) -> None:
    ahead = goes_on(tmp_path, toy(name, growing), window, predictor=predictor, **RULES[rule])
    assert ahead, "nothing lay ahead, so this proves nothing"


@pytest.mark.parametrize("rule", RULES)
def test_a_run_stops_where_it_is_told_to(rule: str) -> None:
    """At the very step, with what lies ahead; there it is within what the rule allows of a run that went past."""
    make, rounds = toy("Adam", growing=False), []
    solution = dp.solve(make(), STEPS, 8, stop=7, callback=rounds.append, **RULES[rule])
    assert solution.state.step == 7 and sum(solution.stats.strides) == 7
    window = rounds[-1].window
    assert equal(window.states[0], solution.state)
    assert len(window.states) > 1, "what lay ahead was thrown away"
    rest = dp.solve(make(), STEPS, 8, state=window, **RULES[rule])
    again = dp.solve(make(), STEPS, 8, state=window, stop=STEPS, **RULES[rule])
    assert rest.state.step == STEPS and equal(rest.state, again.state)
    exact = dp.solve(make(), STEPS, 8, tolerance=0, stop=7)
    assert equal(exact.state, dp.solve_sequential(make(), 7).state)
    for wrong in (6, STEPS + 1):
        with pytest.raises(ValueError, match="stop must lie in"):
            dp.solve(make(), STEPS, 8, state=window, stop=wrong)


@pytest.mark.parametrize("rule", RULES)
def test_a_sequential_run_goes_on_bit_for_bit(tmp_path: Path, rule: str) -> None:
    assert goes_on(tmp_path, toy("Adam"), 1, every=5, **RULES[rule]) == 0
    path = sorted(tmp_path.glob("*.safetensors"))[7]
    found, _ = checkpoint.load_window(path)
    oracle = dp.solve_sequential(toy("Adam")(), STEPS).state
    assert equal(dp.solve_sequential(toy("Adam")(), STEPS, state=found).state, oracle)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
@pytest.mark.parametrize("rule", RULES)
def test_a_users_own_loop_goes_on_bit_for_bit(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer], rule: str
) -> None:
    """With running statistics among the buffers, and weights that do not lie in the usual order."""

    def make() -> dp.Process:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def loss(module: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
            x = torch.randn(4, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last)
            return (module(x) - x.mean(1, keepdim=True)[:, :, 1:-1, 1:-1]).square().mean()

        momentum = {"momentum": 0.9} if optimizer is not torch.optim.Adam else {}
        made = optimizer(module.parameters(), lr=2e-3, **momentum)  # type: ignore[call-arg]
        return dp.wrap(module, loss, made, scheduler=torch.optim.lr_scheduler.StepLR(made, 5))

    assert goes_on(tmp_path, make, 4, **{**RULES[rule], **({"threshold": 0.3} if rule == "paper" else {})})


def test_a_run_may_go_on_with_another_window(tmp_path: Path) -> None:
    """Guesses change with the window, results only within the tolerance; with none they stay to the last bit."""
    oracle = dp.solve_sequential(toy("Adam")(), STEPS).state
    for rule in ({"tolerance": 0.0}, RULES["step"], RULES["paper"]):
        _, paths = stopped(tmp_path, toy("Adam"), 8, **rule)
        cut = [path for path in paths if len(checkpoint.load_window(path)[0].states) > 2]
        assert cut
        for window in (1, 2, 3, 16):
            found, _ = checkpoint.load_window(cut[0])
            state = dp.solve(toy("Adam")(), STEPS, window, state=found, **rule).state
            if rule == {"tolerance": 0.0}:
                assert equal(state, oracle)
            else:
                close = [torch.allclose(state.params[n], oracle.params[n], atol=0.2) for n in oracle.params]
                assert state.step == STEPS and all(close)


def test_what_lies_ahead_and_the_threshold_are_needed(tmp_path: Path) -> None:
    """The accepted state alone gives another run: the checkpoint holds no more than it must."""
    whole, paths = stopped(tmp_path, toy("Adam"), 8, error_rule="paper", threshold=3e3)
    windows = [checkpoint.load_window(path)[0] for path in paths]
    windows = [window for window in windows if len(window.states) > 2]

    def differs(shorten: Callable[[Window], Window]) -> bool:
        ends = [
            dp.solve(
                toy("Adam")(), STEPS, 8, state=shorten(window), error_rule="paper", threshold=3e3
            )
            for window in windows
        ]  # fmt: skip
        return any(
            not equal(end.state, whole.state)
            or end.stats.errors != whole.stats.errors[-len(end.stats.errors) :]
            for end in ends
        )

    assert not differs(lambda window: window)
    assert differs(lambda window: Window(window.states[:1], window.threshold))
    assert differs(lambda window: Window(window.states, 1e-3))
