"""The embedded model: its tokenizer agrees with the vocabulary, its folder reads back, training goes on."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextModel

from dreamprop.prior import PIXEL, classifier, train_model, vocabulary
from dreamprop.prior.benchmark import sample
from dreamprop.prior.model import TextToImage

from .stopping import assert_same, stopped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "model"
    TextToImage.create(0).save(path)
    return path


@pytest.mark.parametrize(
    "prompt", ["The Tori, red", "a red cube on top of a blue cylinder, back view", "doughnuts of violet"]
)
def test_the_tokenizer_holds_the_rewrites(prompt):
    model = TextToImage.create(0)
    tokens = model.tokenizer.convert_ids_to_tokens(model.tokens([prompt])[0])
    assert [t for t in tokens if not t.startswith("<")] == vocabulary.canonical(prompt)
    assert "<unk>" not in tokens


def test_the_folder_reads_back_through_from_pretrained(folder):
    model = TextToImage.create(0)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for ours, theirs in ((model.unet, unet), (model.text_encoder, encoder)):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name].half(), tensor.half()), name
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    ids = tokenizer(["a red torus"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, model.tokens(["red tori"]))
    assert DDPMScheduler.from_pretrained(folder / "scheduler").config.prediction_type == "v_prediction"


def test_creating_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    TextToImage.create(0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sampling_repeats(folder):
    a, b = (sample(folder, ["a red torus"], 2, 3.0, 0) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (1, 3, 32, 32)


def test_training_that_is_stopped_goes_on_bit_for_bit(tmp_path):
    def run(out):
        arguments = ["--out", str(out), "--steps", "4", "--batch", "2", "--views", "1", "--pair-views", "0"]
        train_model.train(train_model.parser().parse_args(arguments))
        return out / "checkpoints" / "step-0000004" / "state.safetensors"

    whole = run(tmp_path / "whole")
    stopped(lambda: run(tmp_path / "cut"), 2)
    assert (tmp_path / "cut" / "checkpoints" / "step-0000002").is_dir()
    assert_same(run(tmp_path / "cut"), whole)


def test_the_shipped_weights_are_small_and_half_precision():
    size = sum(f.stat().st_size for f in PIXEL.rglob("*") if f.is_file())
    assert size <= 15e6
    assert {t.dtype for t in load_file(next((PIXEL / "unet").glob("*.safetensors"))).values()} == {
        torch.float16
    }
    assert json.loads((PIXEL / "model_index.json").read_text())["unet"][0] == "diffusers"


def test_the_shipped_model_draws_what_it_is_asked():
    prompts = [p for p, _, _ in vocabulary.single_object_prompts()][:: 130 // 16][:16]
    pictures = sample(PIXEL, prompts, 12, 2.0, 1)
    jury = classifier.load()
    right = sum(jury.names(pictures[i : i + 1], p)[0] for i, p in enumerate(prompts))
    # of 16; guessing names one in 130
    assert right >= 12
