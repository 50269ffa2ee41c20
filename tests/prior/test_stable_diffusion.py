"""The latent model: words are whole tokens, the folder is a pipeline, training that is stopped goes on bit for bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import AutoTokenizer

from dreamprop.prior import STABLE_DIFFUSION, captions, train_autoencoder, train_unet, vocabulary
from dreamprop.prior import training as trainings
from dreamprop.prior.dataset import Dataset
from dreamprop.prior.latents import encode
from dreamprop.prior.stable_diffusion import (
    END,
    MAX_TOKENS,
    make_autoencoder,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    save,
    token_ids,
)
from dreamprop.prior.world import LARGE, build_atlas
from dreamprop.rng import generator

from .stopping import assert_same, stopped

SMALLER = replace(LARGE, size=16)
TINY = ["--views", "1", "--pair-views", "0", "--batch", "2"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def atlas():
    return build_atlas(3, 1, 1, SMALLER)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny autoencoder and U-Net, both trained for four steps in one go."""
    out = tmp_path_factory.mktemp("stable-diffusion")
    run_both(out, 4)
    return out


def run_both(out, steps):
    widths = ["--steps", str(steps), *TINY]
    arguments = ["--out", str(out), *widths, "--widths", "8", "8", "8", "--test-views", "1"]
    train_autoencoder.train(train_autoencoder.parser().parse_args(arguments))
    run_unet(out, steps)


def run_unet(out, steps):
    arguments = ["--out", str(out), "--steps", str(steps), *TINY, "--widths", "16", "16", "16"]
    arguments += ["--autoencoder-widths", "8", "8", "8", "--latents", "64"]
    train_unet.train(train_unet.parser().parse_args(arguments))


def test_every_word_is_one_token_and_any_text_can_be_read(tokenizer):
    for word in captions.words():
        assert len(tokenizer(word).input_ids) == 3, word
    ids = tokenizer("a Zebra, 42 €").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "azebra,42€"
    assert make_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_captions_fit_and_say_what_is_seen(tokenizer, atlas):
    dataset = Dataset(atlas, SMALLER)
    g = generator(0, 0)
    _, facts = dataset.draw(400, g)
    said = captions.captions(facts, g)
    ids = token_ids(tokenizer, said)
    assert ids.shape == (400, MAX_TOKENS)
    assert (ids[:, -1] == tokenizer.convert_tokens_to_ids(END)).all()  # none was cut
    names = list(vocabulary.COLORS)
    pairs = 0
    for row, text in zip(facts.tolist(), said, strict=True):
        shape, color, other, other_color, relation, view = row
        objects = vocabulary.parse(text)
        assert objects[0] == (vocabulary.SHAPES[shape], names[color])
        assert len(objects) == 1 + (other >= 0)
        if other >= 0:
            pairs += 1
            assert objects[1] == (vocabulary.SHAPES[other], names[other_color])
            assert vocabulary.RELATIONS[relation] in vocabulary.canonical(text)
        found = set(vocabulary.canonical(text)) & set(vocabulary.VIEWS)
        assert found <= {vocabulary.VIEWS[view]}
    assert 130 < pairs < 190  # 40% of 400, give or take three standard errors


def test_the_large_world_repeats(atlas):
    again = build_atlas(3, 1, world=SMALLER)  # one object each: the first of the fixture's
    assert torch.equal(atlas.layers[: len(again.layers)], again.layers)
    assert atlas.views[: len(again.layers)] == again.views
    atlas = build_atlas(3, 1, world=SMALLER)
    (a, x), (b, y) = (Dataset(m, SMALLER).draw(16, generator(0, 7)) for m in (atlas, again))
    assert torch.equal(a, b) and torch.equal(x, y)
    assert a.shape == (16, 3, 16, 16) and a.min() >= 0 and a.max() <= 1


def test_objects_of_the_large_world_stay_in_the_frame(atlas):
    alpha = atlas.layers[:, 5].float()
    edge = torch.cat([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], 1)
    touching = (edge > 0).any(1).float().mean()
    assert touching < 0.1 and alpha.mean() > 0.05 * 255


def test_latents_have_unit_variance_and_are_those_of_the_encoder(atlas):
    vae = make_autoencoder(0, (8, 8, 8))
    dataset = Dataset(atlas, SMALLER)
    found = encode(vae, dataset, 128, 5)
    z, _ = found.draw(512, generator(0, 0))
    assert float(z.std()) == pytest.approx(1, rel=0.1)
    pictures, facts = dataset.draw(64, generator(5, 1, "prior/latents"))
    with torch.no_grad():
        posterior = vae.encode(pictures * 2 - 1).latent_dist
    assert torch.equal(found.mean[64:], posterior.mean.half())
    assert torch.equal(found.facts[64:].long(), facts)


def test_training_that_is_stopped_goes_on_bit_for_bit(trained, tmp_path, monkeypatch):
    for atlas in trained.glob("atlas-*"):
        shutil.copy(atlas, tmp_path)
    # the learning rate looks at the number of steps in all, so both starts are told four
    for part in ("autoencoder", "unet"):
        stopped(lambda part=part: (run_both if part == "autoencoder" else run_unet)(tmp_path, 4), 2)
        assert [p.name for p in (tmp_path / part).glob("step-*")] == ["step-0000002"]
        if part == "autoencoder":
            with monkeypatch.context() as patch:
                patch.setattr(train_unet, "train", lambda args: None)
                run_both(tmp_path, 4)
        else:
            run_unet(tmp_path, 4)
        last = Path(part) / "step-0000004" / "state.safetensors"
        assert_same(trained / last, tmp_path / last)


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    training = trainings.Training(torch.nn.Linear(2, 2))
    training.update(training.module(torch.ones(1, 2)).sum(), 0.1)
    training.save(tmp_path)

    def fail(*args):
        raise OSError("no space")

    training.update(training.module(torch.ones(1, 2)).sum(), 0.1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(trainings, "save_file", fail)
        training.save(tmp_path)
    again = trainings.Training(torch.nn.Linear(2, 2))
    assert again.load(tmp_path) and again.step == 1


def test_a_loss_that_is_not_finite_changes_nothing():
    training = trainings.Training(torch.nn.Linear(2, 2))
    before = {k: v.clone() for k, v in training.module.state_dict().items()}
    with pytest.raises(FloatingPointError, match="loss of step 0 is nan"):
        training.update(training.module(torch.ones(1, 2)).sum() * float("nan"), 0.1)
    assert all(torch.equal(v, before[k]) for k, v in training.module.state_dict().items())


def test_an_untrained_autoencoder_is_told_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="train_autoencoder --out") as told:
        train_unet.trained_autoencoder(tmp_path, [8, 8, 8])
    assert "\n" not in str(told.value)


def picture(folder, prompt="a red cube on top of a blue cylinder"):
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    size = 4 * pipe.unet.config.sample_size
    made = pipe(
        prompt,
        num_inference_steps=3,
        height=size,
        width=size,
        output_type="pt",
        generator=generator(0, 0),
    ).images
    return pipe, made


def test_the_saved_folder_is_a_pipeline(trained):
    pipe, made = picture(trained / "model")
    assert made.shape == (1, 3, 64, 64) and made.isfinite().all()
    assert pipe.vae_scale_factor == 4
    figures = json.loads((trained / "unet" / "figures.json").read_text())
    assert pipe.vae.config.scaling_factor == figures["scaling_factor"] != 1
    scheduler = pipe.scheduler.config
    assert (scheduler.beta_start, scheduler.beta_end) == (0.00085, 0.012)
    assert scheduler.beta_schedule == "scaled_linear" and scheduler.prediction_type == "epsilon"
    assert not scheduler.clip_sample  # latents go beyond one
    average = load_file(trained / "unet" / "step-0000004" / "state.safetensors")
    for name, tensor in pipe.unet.state_dict().items():
        assert torch.equal(tensor.half(), average[f"mean/unet.{name}"].half()), name
    tokenizer = AutoTokenizer.from_pretrained(trained / "model" / "tokenizer")
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()
    vocab = json.loads((trained / "model" / "tokenizer" / "vocab.json").read_text())
    assert vocab == tokenizer.get_vocab()


def test_saving_replaces_a_folder(tmp_path, tokenizer):
    parts = make_autoencoder(0, (8, 8)), make_unet(0, (16, 16, 16)), make_text_encoder(0, tokenizer)
    for _ in range(2):
        save(tmp_path / "model", *parts, tokenizer)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    read = AutoencoderKL.from_pretrained(tmp_path / "model" / "vae")
    assert all(torch.equal(v, parts[0].state_dict()[k].half()) for k, v in read.half().state_dict().items())


def test_the_shipped_weights_are_small_and_half_precision():
    size = sum(f.stat().st_size for f in STABLE_DIFFUSION.rglob("*") if f.is_file())
    assert 0 < size <= 15e6
    for part in ("unet", "vae", "text_encoder"):
        tensors = load_file(next((STABLE_DIFFUSION / part).glob("*.safetensors")))
        assert {t.dtype for t in tensors.values()} == {torch.float16}
