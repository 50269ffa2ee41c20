"""A whole run of two particles that is killed, and goes on with what its guidance had learnt."""

import signal
from pathlib import Path

import torch

from dreamprop import checkpoint
from dreamprop.cli import main
from dreamprop.guidance.lora import LORA
from tests.cli.runs import final, killed, same
from tests.cli.shipped import REPOSITORY
from tests.guidance import tiny

CONFIG = ["--config", str(REPOSITORY / "configs" / "prolificdreamer.yaml")]
SMALL = [
    "output.turntable_frames=2", "output.turntable_size=16", "output.view_size=16", "output.preview_every_n_steps=0",
    "export.resolution=10", "data.width=8", "data.height=8", "data.batch_size=2", "system.num_particles=2",
    "system.geometry.resolution=[6,8]", "system.geometry.resolution_milestones=[4]", "trainer.max_steps=8",
    "parallel.window=3", "parallel.sub_batch=1",
]  # fmt: skip
FOLDER = Path("outputs/prolificdreamer")


def test_a_killed_run_goes_on_with_its_corrections_to_the_same_bits(tmp_path: Path) -> None:
    """It is killed behind a grid that grew at 4, and goes on from where it was and from a state in front of that."""
    model = f"system.guidance.pretrained_model_name_or_path={tiny.save(tmp_path / 'model')}"

    def run(*arguments: str) -> int:
        return main([*CONFIG, *SMALL, model, "--train", *arguments])

    assert run("tag=whole") == 0
    often = ("checkpoint.every_n_train_steps=1", "checkpoint.keep=99")
    assert killed(7, lambda: run("tag=killed", *often)) == -signal.SIGKILL
    folder = FOLDER / "killed"
    found = {
        path: checkpoint.load(path)[0] for path in sorted((folder / "checkpoints").glob("*.safetensors"))
    }
    path, early = next((path, state) for path, state in found.items() if state.step > 0)
    late = list(found.values())[-1]
    assert early.step < 4 < late.step < 8
    assert [state.params["geometry.density"].shape[:2] for state in (early, late)] == [(2, 6), (2, 8)]
    # factors that are zero until they are trained
    learnt = [name for name in early.params if name.startswith(LORA) and "lora_B" in name]
    assert learnt and all(state.params[name].any() for state in (early, late) for name in learnt)
    for where in (folder, path):
        assert main(["--config", str(folder / "config.yaml"), "--train", "--resume", str(where)]) == 0
        assert same(FOLDER / "whole", folder)
    ended = final(folder)
    assert all({f"{name}/exp_avg", f"{name}/exp_avg_sq"} <= ended.keys() for name in early.params)
    assert not all(torch.equal(ended[name], late.params[name]) for name in learnt)
