"""Updates that are left out because a gradient was not finite: as a gradient scaler leaves them out."""

from __future__ import annotations

import pytest
import torch

import dreamprop as dp
from dreamprop.solver.nonfinite import IN_A_ROW
from dreamprop.state import equal
from tests.solver.chains import Growing, Toy, optimizer

BAD = (0, 3, 4, 11)


def spoil(step: int, grad: torch.Tensor) -> torch.Tensor:
    return grad * torch.nan if step in BAD else grad


class Skipping(Toy):
    """A chain that says how its pure optimiser leaves an update out."""

    def skip_update(self, state: dp.State) -> dp.State:
        moments = self.optimizer.skip_update(state.moments)
        return dp.State(state.params, moments, state.buffers, state.step + 1)


TORCH = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.02}),
}


@pytest.mark.parametrize("name", TORCH)
def test_skipping_is_what_a_gradient_scaler_does(name: str) -> None:
    """Against the bare loop that steps the optimiser only where the gradients are finite."""
    process = Skipping(optimizer(name), torch.float32, spoil=spoil)
    state = process.init()
    params = {n: torch.nn.Parameter(p.clone()) for n, p in state.params.items()}
    kind, options = TORCH[name]
    at = process.optimizer.groups
    groups = [{"params": [params["a"], params["b"]]}, {"params": [params["c"]]}]
    bare = kind(groups, lr=0.05, **options)
    buffers = state.buffers
    lrs = optimizer("Adam").groups
    for step in range(20):
        held = {n: p.detach() for n, p in params.items()}
        drift = process.drift(dp.State(held, {}, buffers, step))
        if all(g.isfinite().all() for g in drift.grads.values()):
            for n, p in params.items():
                p.grad = drift.grads[n].clone()
            for group, label in zip(bare.param_groups, ("main", "side"), strict=True):
                group["lr"] = lrs(step)[label].step
            bare.step()
            mean = 0.9 * buffers["mean"] + 0.1 * params["a"].detach().mean()
            buffers = {"mean": mean, "count": buffers["count"] + 1}
    assert at(0)
    done = dp.solve_sequential(process, 20, on_nonfinite="skip")
    assert done.stats.num_skipped == len(BAD)
    assert all(torch.equal(done.state.params[n], p) for n, p in params.items())
    assert int(done.state.buffers["count"]) == 20 - len(BAD)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adan"])
def test_a_window_skips_what_the_sequential_run_skips(name: str) -> None:
    process = Skipping(optimizer(name), spoil=spoil)
    rounds: list[dp.Round] = []
    solution = dp.solve(process, 20, 5, 0.0, on_nonfinite="skip", callback=rounds.append)
    assert equal(solution.state, dp.solve_sequential(process, 20, on_nonfinite="skip").state)
    assert [r.step - 1 for r in rounds if r.skipped] == list(BAD) and solution.stats.num_skipped == len(BAD)
    assert all(r.stride == 1 for r in rounds if r.skipped)


def test_a_wrapped_loop_skips_too() -> None:
    def make() -> dp.Process:
        torch.manual_seed(0)
        net = torch.nn.Linear(4, 4)

        def loss_fn(net: torch.nn.Module, step: int, g: torch.Generator) -> torch.Tensor:
            return net(torch.randn(8, 4, generator=g)).square().mean() * (torch.inf if step in BAD else 1)

        return dp.wrap(net, loss_fn, torch.optim.Adam(net.parameters(), 0.01))

    done = dp.solve(make(), 16, 4, 0.0, on_nonfinite="skip").state
    assert equal(done, dp.solve_sequential(make(), 16, on_nonfinite="skip").state)
    assert done.moments["weight/step"] == 16 - len(BAD)


def test_stop_is_the_default_and_an_endless_row_of_skips_ends() -> None:
    process = Skipping(optimizer("Adam"), spoil=spoil)
    with pytest.raises(dp.errors.NonFiniteDrift, match=r"step 0 .* group 'main'"):
        dp.solve(process, 20, 5)
    broken = Skipping(optimizer("Adam"), spoil=lambda step, grad: grad * torch.nan if step > 5 else grad)
    for solve in (dp.solve, dp.solve_sequential):
        with pytest.raises(dp.errors.NonFiniteDrift, match=f"step {6 + IN_A_ROW} "):
            solve(broken, 100, on_nonfinite="skip")
    with pytest.raises(ValueError, match="on_nonfinite must be one of stop, skip, got 'ignore'"):
        dp.solve(process, 20, on_nonfinite="ignore")


def test_a_change_of_size_cannot_be_skipped_by_guessing() -> None:
    """The state behind a boundary has other shapes, which only the process knows."""
    process = Growing(optimizer("Adam"), spoil=spoil)  # step 3 is not finite, and 4 is a boundary
    for solve in (dp.solve, dp.solve_sequential):
        with pytest.raises(dp.errors.NonFiniteDrift, match="step 3 "):
            solve(process, 20, on_nonfinite="skip")
