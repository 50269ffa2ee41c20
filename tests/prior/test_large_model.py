"""The folder of the model for 512-pixel pictures: put together whole or not at all, and the same model."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from dreamprop.prior import STABLE_DIFFUSION
from dreamprop.prior import large_model as module
from dreamprop.prior.large_model import TIME_WIDTH, large_model
from dreamprop.rng import generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return large_model(tmp_path_factory.mktemp("cache"))


@torch.no_grad()
def test_it_is_a_pipeline_with_the_same_u_net(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    small = UNet2DConditionModel.from_pretrained(STABLE_DIFFUSION / "unet")
    assert pipe.unet.time_embedding.linear_2.out_features == TIME_WIDTH
    g = generator(0, 0)
    latents, text = torch.randn(2, 4, 16, 16, generator=g), torch.randn(2, 20, 128, generator=g)
    timesteps = torch.tensor([7, 900])
    assert torch.equal(pipe.unet(latents, timesteps, text).sample, small(latents, timesteps, text).sample)
    assert pipe.vae.encode(torch.zeros(1, 3, 512, 512)).latent_dist.mean.shape == (1, 4, 16, 16)
    for part in ("text_encoder", "tokenizer", "scheduler"):
        for path in (STABLE_DIFFUSION / part).iterdir():
            assert (folder / part / path.name).read_bytes() == path.read_bytes()


def test_it_is_written_once_and_named_after_its_content(folder, tmp_path, monkeypatch):
    other = tmp_path / "small"
    shutil.copytree(STABLE_DIFFUSION, other)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", lambda *_: pytest.fail("it is there already"))
        assert large_model(folder.parent) == folder
    (other / "tokenizer" / "vocab.json").write_text("{}")
    assert large_model(folder.parent, other).name != folder.name


def test_it_is_whole_or_absent(tmp_path, monkeypatch):
    def stop(place: Path, *_: Path) -> None:
        (place / "vae").mkdir()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="set XDG_CACHE_HOME") as told:
        patch.setattr(module, "_write", stop)
        large_model(tmp_path)
    assert "\n" not in str(told.value) and list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        ValueError, match=r"cannot write .*, the embedded model: .*; set XDG_CACHE_HOME"
    ) as told:
        large_model()
    assert "\n" not in str(told.value)
