"""Variational score distillation against its formula in float64, whose corrected U-Net is diffusers' own with peft."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding
from peft import LoraConfig, set_peft_model_state_dict
from torch import Tensor

from dreamprop.errors import InputError
from dreamprop.guidance.denoiser import PromptedModel
from dreamprop.guidance.diffusion import Model, load
from dreamprop.guidance.lora import CAMERA, LORA, LoRA
from dreamprop.guidance.prompt import Prompt, Views
from dreamprop.guidance.protocol import Draw, Pictures, join
from dreamprop.guidance.score_distillation import ScoreDistillation
from dreamprop.guidance.variational import VSD
from tests.guidance import tiny

STATES, PICTURES, RANK = 3, 2, 2
FLOAT32 = 2e-4
"""Relative rounding of a small U-Net in float32 against float64."""
ORDER = 1e-5
"""Relative: the same products in float32, summed in another order."""


def make(model: Model, **settings: Any) -> VSD:
    prompt = Prompt.of(model, "a red torus", "cube", Views())
    base = ScoreDistillation(model, prompt, guidance_scale=7.0, **settings)
    return VSD(base, LoRA(model.unet, RANK))


@dataclass(frozen=True)
class Asked:
    """Pictures of states whose corrections are far from zero."""

    params: dict[str, Tensor]
    pictures: Pictures

    def of(self, guidance: VSD) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """z, the gradient with respect to it, the corrections' loss and its gradients."""
        params = {name: p.clone().requires_grad_() for name, p in self.params.items()}
        z, grad = guidance.gradient(self.pictures, params)
        loss = guidance.training_loss(z, self.pictures, params)
        assert loss is not None
        found = torch.autograd.grad(loss, list(params.values()))
        return z, grad, loss, dict(zip(params, found, strict=True))

    def alone(self, state: int) -> Asked:
        """The same of one state by itself."""
        all_of = self.pictures
        first = sum(all_of.counts[:state])
        at = slice(first, first + all_of.counts[state])

        def cut(draw: Draw) -> Draw:
            posterior = None if draw.posterior is None else draw.posterior[at]
            training = None if draw.training is None else cut(draw.training)
            return Draw(draw.timesteps[at], draw.noise[at], posterior, draw.host_timesteps[at], training)

        of_pictures = ("images", "elevation", "azimuth", "pose", "steps")
        pictures = Pictures(
            **{name: getattr(all_of, name)[at] for name in of_pictures},
            draw=cut(all_of.draw),
            counts=all_of.counts[state : state + 1],
        )
        return Asked({name: p[state : state + 1] for name, p in self.params.items()}, pictures)


def ask(guidance: VSD, counts: tuple[int, ...] = (PICTURES,) * STATES) -> Asked:
    """Of states with so many pictures each."""
    g = torch.Generator().manual_seed(5)
    many, side = sum(counts), guidance.base.model.resolution
    start = [guidance.init(g) for _ in counts]
    params = {
        name: torch.stack([s[name] for s in start]) + 0.3 * torch.randn(len(counts), *shape, generator=g)
        for name, shape in guidance.lora.shapes.items()
    }
    images = torch.rand(many, 3, side, side, generator=g)
    draw = join([guidance.draw(count, 0, g) for count in counts])
    elevation, azimuth = torch.linspace(-10, 80, many), torch.linspace(-170, 170, many)
    return Asked(params, tiny.asked(images, draw, elevation, azimuth, counts=counts))


def diffusers_own(model: Model, params: dict[str, Tensor]) -> Any:
    """The corrected U-Net of one state in float64, by `add_adapter` of diffusers and the layers of peft."""
    unet = type(model.unet).from_config(model.unet.config)
    unet.load_state_dict(model.unet.state_dict())
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    weights = {n.removeprefix(f"{LORA}."): p for n, p in params.items() if n.startswith(LORA)}
    told = set_peft_model_state_dict(unet, weights)
    assert not told.unexpected_keys and not [k for k in told.missing_keys if "lora" in k]
    camera = {n.removeprefix(f"{CAMERA}."): p for n, p in params.items() if n.startswith(CAMERA)}
    unet.class_embedding = TimestepEmbedding(16, unet.time_embedding.linear_2.out_features)
    unet.class_embedding.load_state_dict(camera)
    return unet.double().eval()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_gradient_and_loss_follow_the_formula(folder: Path, prediction: str) -> None:
    model = load(tiny.save(folder / prediction, prediction=prediction), "cpu")
    guidance = make(model)
    asked = ask(guidance)
    pictures, drawn = asked.pictures, asked.pictures.draw
    z, grad, loss, learnt = asked.of(guidance)
    frozen = type(model.unet).from_config(model.unet.config).double().eval()
    frozen.load_state_dict(model.unet.state_dict())
    negative, text = guidance.base.prompt.embeddings(pictures.elevation, pictures.azimuth).double().chunk(2)

    def noisy(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        a = model.alphas_cumprod.double()[draw.timesteps].view(-1, 1, 1, 1)
        eps = draw.noise.double()
        return a, eps, a.sqrt() * z.detach().double() + (1 - a).sqrt() * eps

    def eps_of(out: Tensor, a: Tensor, x: Tensor) -> Tensor:
        if prediction == "epsilon":
            return out
        if prediction == "v_prediction":
            return a.sqrt() * out + (1 - a).sqrt() * x
        return (x - a.sqrt() * out) / (1 - a).sqrt()

    a, _, x = noisy(drawn)
    with torch.no_grad():
        u, c = (eps_of(frozen(x, drawn.timesteps, t).sample, a, x) for t in (negative, text))
    assert drawn.training is not None
    b, eps, y = noisy(drawn.training)
    target = {
        "epsilon": eps,
        "v_prediction": b.sqrt() * eps - (1 - b).sqrt() * z.detach(),
        "sample": z.detach(),
    }
    total = torch.zeros((), dtype=torch.float64)
    for state in range(STATES):
        rows = slice(PICTURES * state, PICTURES * (state + 1))
        unet = diffusers_own(model, {name: p[state] for name, p in asked.params.items()})
        camera = pictures.pose[rows].double()

        def predict(
            x: Tensor, t: Tensor, unet: Any = unet, rows: slice = rows, camera: Tensor = camera
        ) -> Tensor:
            found: Tensor = unet(x[rows], t[rows], text[rows], class_labels=camera).sample
            return found

        with torch.no_grad():
            eps_phi = eps_of(predict(x, drawn.timesteps), a[rows], x[rows])
        expected = (1 - a[rows]) * (u[rows] + 7.0 * (c[rows] - u[rows]) - eps_phi)
        assert (grad[rows] - expected).abs().max() < FLOAT32 * expected.abs().max()
        wrong = (predict(y, drawn.training.timesteps) - target[prediction][rows]).square().mean()
        total = total + wrong.detach()
        wrong.backward()
        own = {name.replace(".default.", "."): p.grad for name, p in unet.named_parameters()}
        for name, found in learnt.items():
            theirs = own[name.replace(f"{LORA}.", "").replace(CAMERA, "class_embedding")]
            # where all of a tensor's gradient nearly cancels, what is left is rounding of what cancelled
            assert (found[state] - theirs).abs().max() < FLOAT32 * max(float(theirs.abs().max()), 1e-3), name
    assert (loss.detach() - total).abs() < FLOAT32 * total


def test_the_frozen_branch_is_the_untouched_model_bit_for_bit(
    pixels: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While corrections far from zero are in use, on this thread and on another."""
    untouched = load(folder / "pixels", "cpu")
    guidance = make(pixels)
    asked = ask(guidance)
    seen: list[tuple[tuple[Any, ...], Tensor]] = []
    guided = PromptedModel.guided

    def watched(self: PromptedModel, *args: Any) -> Tensor:
        seen.append(((self.text, *args), guided(self, *args)))
        return seen[-1][1]

    monkeypatch.setattr(PromptedModel, "guided", watched)
    busy = threading.Thread(target=lambda: [asked.of(guidance) for _ in range(3)])
    busy.start()
    for _ in range(3):
        asked.of(guidance)
    busy.join()
    (text, noisy, timesteps, scale), _ = seen[0]
    expected = guided(PromptedModel(untouched, text, text[0]), noisy, timesteps, scale)
    assert len(seen) == 6 and all(torch.equal(found, expected) for _, found in seen)
    assert not any("lora" in name for name, _ in pixels.unet.named_modules())
    # and the corrections were in use: without them the second branch is the frozen one, with them it is far from it
    told = text.chunk(2)[1]
    counts, pose = asked.pictures.counts, asked.pictures.pose
    plain = untouched.predict(noisy, timesteps, told)
    start = [guidance.init(torch.Generator().manual_seed(i)) for i in range(STATES)]
    zero = {name: torch.stack([s[name] for s in start]) for name in start[0]}
    with torch.no_grad():
        fresh = guidance.lora.predict(zero, counts, noisy, timesteps, told, pose)
        grown = guidance.lora.predict(asked.params, counts, noisy, timesteps, told, pose)
    assert torch.equal(fresh, plain)
    assert (grown - plain).abs().amax((1, 2, 3)).min() > 0.01 * plain.abs().max()


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 3, 2)], ids=["alike", "unlike"])
def test_states_together_are_states_one_by_one(pixels: Model, counts: tuple[int, ...]) -> None:
    guidance = make(pixels)
    asked = ask(guidance, counts)
    _, grad, loss, learnt = asked.of(guidance)
    alone = [asked.alone(state).of(guidance) for state in range(len(counts))]
    one_by_one = torch.cat([found[1] for found in alone])
    assert (grad - one_by_one).abs().max() < ORDER * one_by_one.abs().max()
    assert torch.allclose(loss, sum(found[2] for found in alone), rtol=ORDER)
    scale = max(float(found.abs().max()) for found in learnt.values())
    for name, found in learnt.items():
        single = torch.cat([one[3][name] for one in alone])
        assert found.shape == single.shape and (found - single).abs().max() < ORDER * scale, name


def test_gradients_survive_half_precision(folder: Path, pixels: Model) -> None:
    half = load(folder / "pixels", "cpu", torch.float16)
    asked = ask(make(pixels))
    _, grad, _, learnt = asked.of(make(pixels))
    _, grad16, _, learnt16 = asked.of(make(half))
    assert (grad - grad16).norm() < 0.05 * grad.norm()
    for name, found in learnt.items():
        assert learnt16[name].dtype == torch.float32
        assert (found - learnt16[name]).norm() < 0.05 * found.norm(), name


def test_draws_of_the_corrections_are_their_own(pixels: Model) -> None:
    guidance = make(pixels, min_step_percent=0.2, max_step_percent=[0, 0.9, 0.3, 100])
    for step, high in ((0, 900), (100, 300)):
        draw = guidance.draw(2000, step, torch.Generator().manual_seed(step))
        assert draw.training is not None and not torch.equal(draw.noise, draw.training.noise)
        for part in (draw, draw.training):
            assert part.timesteps.min() == 200 and part.timesteps.max() == high
        both = torch.stack([draw.timesteps, draw.training.timesteps]).double()
        assert torch.corrcoef(both)[0, 1].abs() < 0.1


def test_global_random_state_is_left_alone(pixels: Model) -> None:
    before = torch.get_rng_state()
    guidance = make(pixels)
    ask(guidance).of(guidance)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_of_classes_is_refused(folder: Path) -> None:
    model = load(tiny.save(folder / "classes"), "cpu")
    model.unet.class_embedding = torch.nn.Embedding(3, 32)
    with pytest.raises(InputError, match="must have a U-Net without classes"):
        LoRA(model.unet, RANK)
