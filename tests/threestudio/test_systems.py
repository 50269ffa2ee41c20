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
