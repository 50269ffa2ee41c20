"""The autoencoder for 512-pixel pictures: what is written down is exact, what is trained is near the small one."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL
from safetensors.torch import load_file

from dreamprop.prior import LARGE_VAE, STABLE_DIFFUSION, train_large_autoencoder
from dreamprop.prior.atlas import load_atlas
from dreamprop.prior.dataset import Dataset
from dreamprop.prior.large_autoencoder import Inner, enlarged, fold, make_large_autoencoder, shrunk
from dreamprop.prior.train_large_autoencoder import figures, fresh_pictures
from dreamprop.prior.world import LARGE
from dreamprop.rng import generator

from .stopping import assert_same, stopped

TINY = ["--views", "1", "--pair-views", "0", "--batch", "2", "--steps", "4", "--no-bfloat16"]
TINY += ["--test-views", "1", "--test-pictures", "1"]


@pytest.fixture(scope="module")
def drawn():
    """An autoencoder of random weights, and its inner part."""
    vae = make_large_autoencoder(3)
    inner = Inner(vae)
    inner.picture.bias.data.uniform_(-0.5, 0.5, generator=generator(0, 0))
    fold(vae, inner)
    return vae, inner


@torch.no_grad()
def test_the_encoder_sees_the_means_of_8_by_8_pixels(drawn):
    vae, inner = drawn
    pictures = torch.rand(1, 3, 512, 512, generator=generator(0, 1)) * 2 - 1
    found = vae.encode(pictures).latent_dist
    mean, logvar = inner.encode(shrunk(pictures))
    assert found.mean.shape == (1, 4, 16, 16)
    torch.testing.assert_close(found.mean, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logvar, logvar, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_decoder_interpolates_what_its_inner_part_makes(drawn):
    vae, inner = drawn
    latents = torch.randn(1, 4, 16, 16, generator=generator(0, 2))
    wanted = inner.decode(latents)
    for _ in range(3):
        wanted = F.interpolate(wanted, scale_factor=2, mode="bilinear")
    found = vae.decode(enlarged(latents)).sample
    assert found.shape == (1, 3, 512, 512)
    inside = (..., slice(8, -8), slice(8, -8))  # at the edges taps see zeros
    # (a² + b²) / 4K² at most, with K = 16, of the values; and silu's distance from the identity at 10
    bound = wanted.abs().amax() ** 3 / (2 * 16**2) + 2e-3
    assert (found - wanted)[inside].abs().max() < bound


def test_folding_again_changes_nothing(drawn):
    vae, inner = drawn
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    fold(vae, inner)
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())


def test_training_that_is_stopped_goes_on_bit_for_bit(tmp_path):
    def train(out):
        train_large_autoencoder.train(train_large_autoencoder.parser().parse_args(["--out", str(out), *TINY]))

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole)
    cut.mkdir()
    for atlas in whole.glob("atlas-*"):
        shutil.copy(atlas, cut)
    stopped(lambda: train(cut), 2)
    train(cut)
    for name in (
        "large-autoencoder/step-0000004/state.safetensors",
        "large-vae/diffusion_pytorch_model.safetensors",
    ):
        assert_same(whole / name, cut / name)


def test_the_shipped_one_comes_near_the_small_one(tmp_path):
    tensors = load_file(next(LARGE_VAE.glob("*.safetensors")))
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert sum(t.numel() for t in tensors.values()) <= 300_000
    vae = AsymmetricAutoencoderKL.from_pretrained(LARGE_VAE).requires_grad_(False)
    small = AutoencoderKL.from_pretrained(STABLE_DIFFUSION / "vae").eval().requires_grad_(False)
    assert vae.config.scaling_factor == small.config.scaling_factor
    dataset = Dataset(load_atlas(tmp_path, 77, 1, 0, LARGE))
    found = figures(vae, small, fresh_pictures(dataset, 4))
    assert found["psnr_db_of_latents_by_the_small_decoder_to_the_small_reconstruction"] >= 33
    assert found["psnr_db_of_the_whole_to_the_picture"] >= 24
    assert found["cosine_of_gradients"] >= 0.8
