"""Systems of upstream other than the two of `test_oracle`: pure, exact where it is asked for, and accelerated."""

from __future__ import annotations

from pathlib import Path

import pytest

import dreamprop as dp

from . import upstream

pytestmark = upstream.needs_checkout

STEPS = 4


@pytest.mark.parametrize(
    "name",
    [
        "magic3d-coarse-sd",
        "textmesh-if",
        "sjc",
        "latentnerf",
        "hifa",
        "sdi",
        "zero123",
        "dreamfusion-sd-eff",
        "prolificdreamer-hifa",
        "prolificdreamer-scene",
        "prolificdreamer-patch",
    ],
)
def test_a_system_runs(name: str, folder: Path) -> None:
    from dreamprop.threestudio import build
    from dreamprop.threestudio.purity import check

    upstream.toy_guidance()
    upstream.picture(folder)
    process = build.process(upstream.studio(name, folder))
    start = process.init()
    found = check(process, start, ahead=STEPS)
    assert found.pure, found.line()
    print(found.line())
    sequential = dp.solve_sequential(process, STEPS, state=start).state
    exact = dp.solve(process, STEPS, window=2, tolerance=0, state=start).state
    assert dp.state.equal(exact, sequential)
    fast = dp.solve(process, STEPS, window=4, evaluator="serial", state=start)
    assert fast.stats.num_rounds < STEPS


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("control4d-static", [], "two optimisers inside training_step"),
        ("instructnerf2nerf", [], "edits its training images inside training_step"),
        ("dreamfusion-sd", ["system.renderer.estimator=proposal"], "its network is trained inside the step"),
    ],
)
def test_a_system_that_is_no_chain_is_refused(name: str, more: list[str], words: str, folder: Path) -> None:
    from dreamprop.threestudio import build

    with pytest.raises(ValueError, match=words) as caught:
        build.make(upstream.studio(name, folder, *more))
    assert "\n" not in str(caught.value)


def test_one_model_for_both_of_vsd(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its U-Net holds what is trained, so each step has its own, and the steps do not meet."""
    from dreamprop.threestudio import build
    from dreamprop.threestudio.purity import check

    one = f"system.guidance.pretrained_model_name_or_path_lora={folder / 'sd'}"
    process = build.process(upstream.studio("prolificdreamer", folder, one))
    assert process.system.guidance.single_model
    start = process.init()
    assert check(process, start).pure
    sequential = dp.solve_sequential(process, 3, state=start).state
    assert dp.state.equal(dp.solve(process, 3, window=2, tolerance=0, state=start).state, sequential)
    process.drift_window([start, process.predict(start)])
    assert "evaluated one by one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dreamfusion-sd", "prolificdreamer"])
def test_a_window_meets_at_the_unet(name: str, folder: Path) -> None:
    """One batched run of the frozen U-Net where there were eight, and the same gradients to rounding."""
    from dreamprop.threestudio import build

    process = build.process(upstream.studio(name, folder))
    states = [process.init()]
    while len(states) < 8:
        states.append(process.update(states[-1], process.drift(states[-1])))
    runs = [0]
    process.system.guidance.unet.register_forward_pre_hook(lambda *_: runs.append(1))
    alone = [process.drift(state) for state in states]
    assert sum(runs) == 8
    runs.clear()
    together = process.drift_window(states)
    # hooks of the network see the steps' calls; the runs behind them are counted by the meeting
    assert (process._meeting.calls, process._meeting.answers) == (8, 1)  # type: ignore[union-attr]
    for one, other in zip(alone, together, strict=True):
        for key, grad in one.grads.items():
            # float32's 6e-8 through a network, times a guidance scale of 100
            assert (other.grads[key] - grad).norm() <= 1e-3 * grad.norm()
        for key in one.aux:
            assert not key.startswith("new/") or (one.aux[key] == other.aux[key]).all()
