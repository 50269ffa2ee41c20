"""Systems of upstream other than the two of `test_oracle`: pure, exact where it is asked for, and accelerated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    from dreamprop.threestudio import loading
    from dreamprop.threestudio.purity import PurityMonitor

    upstream.toy_guidance()
    upstream.picture(folder)
    process = loading.process(upstream.studio(name, folder))
    start = process.init()
    monitor = PurityMonitor(process)
    found = monitor.begin(start, ahead=STEPS)
    assert found.pure, found.line()
    print(found.line())
    sequential = dp.solve_sequential(process, STEPS, state=start).state
    exact = dp.solve(process, STEPS, window=2, tolerance=0, state=start).state
    assert dp.state.equal(exact, sequential)
    later = monitor.look(exact)
    assert later.pure, later.line()
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
    from dreamprop.threestudio import loading

    with pytest.raises(ValueError, match=words) as caught:
        loading.make(upstream.studio(name, folder, *more))
    assert "\n" not in str(caught.value)


def test_one_model_for_both_of_vsd(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its U-Net holds what is trained, so each step has its own, and the steps do not meet."""
    from dreamprop.threestudio import loading
    from dreamprop.threestudio.purity import check

    one = f"system.guidance.pretrained_model_name_or_path_lora={folder / 'sd'}"
    process = loading.process(upstream.studio("prolificdreamer", folder, one))
    assert process.system.guidance.single_model
    start = process.init()
    assert check(process, start).pure
    sequential = dp.solve_sequential(process, 3, state=start).state
    assert dp.state.equal(dp.solve(process, 3, window=2, tolerance=0, state=start).state, sequential)
    process.drift_window([start, process.predict(start)])
    assert "evaluated one by one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "meets"),
    [
        # the U-Net, and of the autoencoder's `decode` a convolution and the decoder; `encode` records gradients
        ("dreamfusion-sd", {"UNet2DConditionModel", "Conv2d", "Decoder"}),
        # VSD decodes nothing, and its other U-Net has the LoRA
        ("prolificdreamer", {"UNet2DConditionModel"}),
    ],
)
def test_a_window_meets_at_frozen_networks(name: str, meets: set[str], folder: Path) -> None:
    """One run of each frozen network where there were eight, and the same gradients to rounding."""
    from dreamprop.adapters.batched_call import Call
    from dreamprop.threestudio import loading

    process = loading.process(upstream.studio(name, folder))
    states = [process.init()]
    while len(states) < 8:
        states.append(process.update(states[-1], process.drift(states[-1])))
    alone = [process.drift(state) for state in states]
    process.drift_window(states[:2])  # in its first run each network is held against a call alone
    meeting = process._batcher
    assert meeting is not None
    points = len(meets)
    assert (meeting.calls, meeting.runs) == (2 * points, 2 * points)
    runs: list[str] = []
    real = Call.run

    def run(call: Call, *inputs: Any) -> Any:
        runs.append(type(call.network).__name__)
        return real(call, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Call, "run", run)
        together = process.drift_window(states)
    assert sorted(runs) == sorted(meets)
    assert (meeting.calls, meeting.runs) == (10 * points, 3 * points)
    for one, other in zip(alone, together, strict=True):
        for key, grad in one.grads.items():
            # float32's 6e-8 through a network, times a guidance scale of 100
            assert (other.grads[key] - grad).norm() <= 1e-3 * grad.norm()
        for key, write in one.writes.items():
            assert (write.new == other.writes[key].new).all()
