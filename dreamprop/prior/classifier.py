"""The judge: a small residual network that tells which of all prompts a picture shows, and which parts of it are there.

It is not the generator's kin: another architecture, no text encoder, no noise, heavy augmentation; and the generator
never sees it. R-precision (arXiv:2209.14988, section 4) is how often its first choice among all prompts, pairs
included, is the one that was given.

The probability of a prompt is made of what the heads say: whether there is one object, one atop another or two side by
side; the shape and the colour of each. Who is named first of two side by side is not in a picture (from behind they are
the other way round), so both orders are one prompt and their probabilities are added.

Shapes: images [N, 3, H, W] in [0, 1]; K prompts in the order of `vocabulary.all_prompts`; P (shape, part) of
`counterfactuals.NAMES`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamprop.prior import JUDGE
from dreamprop.prior.counterfactuals import ANSWERS, HIDDEN, NAMES, THERE
from dreamprop.prior.vocabulary import COLORS, PRIMITIVES, RELATIONS, SHAPES, Prompt, all_prompts, read

SIZE = 64
"""Side of the pictures that it looks at; others are resized."""
BLOCKS = ((24, 1), (64, 2), (64, 1), (128, 2), (128, 1))
"""Channels and stride of each block: two at half the side, a quarter and an eighth, but one of the first."""
SLOTS = ("alone", "first", "second")
"""What an object may be: the only one, or either of two."""


@dataclass(frozen=True)
class Answers:
    """What the heads say, logits."""

    arrangement: Tensor
    """[N, 3] one object, or two in each of RELATIONS"""
    shape: Tensor
    """[N, 3, 13] of the object in each slot; two are primitives"""
    color: Tensor
    """[N, 3, 10]"""
    parts: Tensor
    """[N, P, 3] of ANSWERS"""

    def objects(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the object in each slot: [N, 13, 10] alone, [N, 7, 10] for either of two."""
        color = self.color.log_softmax(-1)[..., None, :]
        alone = self.shape[:, 0].log_softmax(-1)[..., None] + color[:, 0]
        pair = self.shape[:, 1:, : len(PRIMITIVES)].log_softmax(-1)[..., None] + color[:, 1:]
        return alone, pair[:, 0], pair[:, 1]

    def log_prob(self) -> Tensor:
        """Log-probability of every prompt, [N, K]."""
        arrangement = self.arrangement.log_softmax(-1)
        alone, first, second = (x.flatten(1) for x in self.objects())
        both = first[:, :, None] + second[:, None]  # [N, 70, 70], first named by second named
        swapped = torch.logaddexp(both, both.transpose(1, 2))
        rows, columns = torch.triu_indices(first.shape[1], first.shape[1])
        same = rows == columns
        beside = torch.where(same, both[:, rows, columns], swapped[:, rows, columns])
        parts = (alone, both.flatten(1), beside)
        return torch.cat([part + arrangement[:, i, None] for i, part in enumerate(parts)], 1)


def prompt_index(
    shape: Tensor, color: Tensor, other: Tensor, other_color: Tensor, relation: Tensor
) -> Tensor:
    """Where the prompts of pictures stand among `all_prompts`; all [N] indices into the vocabulary's lists, `other`
    negative where there is one object."""
    pairs = len(PRIMITIVES) * len(COLORS)
    one, two = shape * len(COLORS) + color, other * len(COLORS) + other_color
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    atop = len(SHAPES) * len(COLORS) + one * pairs + two
    beside = len(SHAPES) * len(COLORS) + pairs * pairs + low * pairs - low * (low - 1) // 2 + high - low
    return torch.where(other < 0, one, torch.where(relation == RELATIONS.index("atop"), atop, beside))


@dataclass(frozen=True)
class Verdict:
    """What the judge decides on each picture."""

    prompts: Tensor
    """[N] its first choice, an index into `all_prompts`."""
    parts: Tensor
    """[N, P] its first choice among ANSWERS."""

    def labels(self) -> list[Prompt]:
        """The first choice among all prompts, in words."""
        known = all_prompts()
        return [known[i] for i in self.prompts.tolist()]

    def find(self, prompt: Prompt) -> dict[str, list[str]]:
        """What is said in each picture of each part that the prompt's shape has: `there`, `missing` or `hidden`;
        nothing of two objects.

        A part is there only where the shape is: of what is named otherwise it is hidden, at best.
        """
        if prompt.relation:
            return {}
        shape = prompt.objects[0][0]
        other = self.prompts // len(COLORS) != SHAPES.index(shape)  # the first of all prompts have one object
        said = torch.where((self.parts == THERE) & other[:, None], HIDDEN, self.parts)
        return {
            part: [ANSWERS[i] for i in said[:, column].tolist()]
            for column, (owner, part) in enumerate(NAMES)
            if owner == shape
        }


class Block(nn.Module):
    """Two 3 x 3 convolutions with group normalisation beside a shortcut."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        last = nn.GroupNorm(8, b)
        nn.init.zeros_(last.weight)  # the shortcut alone at first
        self.body = nn.Sequential(
            nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.GroupNorm(8, b), nn.ReLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False), last,
        )  # fmt: skip
        self.shortcut = nn.Identity() if a == b and stride == 1 else nn.Conv2d(a, b, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = F.relu(self.shortcut(x) + self.body(x))
        return found


class Judge(nn.Module):
    """A residual network; each question has a query that looks for its answer somewhere on the 8 x 8 map.

    Args:
        blocks: (channels, stride) of each; the stem halves the side already and has the first one's channels.
    """

    def __init__(self, blocks: Sequence[tuple[int, int]] = BLOCKS) -> None:
        super().__init__()
        stem, width = blocks[0][0], blocks[-1][0]
        side = SIZE // 2 // math.prod(stride for _, stride in blocks)
        layers: list[nn.Module] = [nn.Conv2d(3, stem, 5, 2, 2, bias=False), nn.GroupNorm(8, stem), nn.ReLU()]
        before = stem
        for channels, stride in blocks:
            layers.append(Block(before, channels, stride))
            before = channels
        self.body = nn.Sequential(*layers)
        sizes = [1 + len(RELATIONS), *[len(SHAPES)] * 3, *[len(COLORS)] * 3, *[len(ANSWERS)] * len(NAMES)]
        self.query = nn.Conv2d(width, len(sizes), 1)
        self.place = nn.Parameter(torch.zeros(len(sizes), side, side))
        self.heads = nn.ModuleList(nn.Linear(2 * width, size) for size in sizes)

    def forward(self, images: Tensor) -> Answers:
        """Answer all questions of images of any size, resized to the judge's."""
        if images.shape[-1] != SIZE:
            shrink = images.shape[-1] > SIZE
            images = F.interpolate(
                images, (SIZE, SIZE), mode="area" if shrink else "bilinear",
                align_corners=None if shrink else False,
            )  # fmt: skip
        return self.answer(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What is seen where, [N, width, 8, 8], of images of the judge's size."""
        seen: Tensor = self.body((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        return seen

    def answer(self, x: Tensor) -> Answers:
        """Answer all questions of features [N, width, 8, 8]."""
        weight = (self.query(x) + self.place).flatten(2).softmax(-1)  # [N, questions, 64]
        looked = weight @ x.flatten(2).transpose(1, 2)  # [N, questions, width]
        strongest = x.amax((2, 3))
        said = [head(torch.cat([looked[:, i], strongest], 1)) for i, head in enumerate(self.heads)]
        n = len(SLOTS)
        return Answers(
            said[0], torch.stack(said[1 : 1 + n], 1), torch.stack(said[1 + n : 1 + 2 * n], 1),
            torch.stack(said[1 + 2 * n :], 1),
        )  # fmt: skip

    @torch.no_grad()
    def verdict(self, images: Tensor) -> Verdict:
        """What each picture shows, and which parts.

        Both are by the mean of the log-probabilities of a picture and of its mirror image: no prompt and no part tells
        left from right.
        """
        prompts, parts = [], []
        for chunk in images.split(64):
            seen, mirrored = self(chunk), self(chunk.flip(-1))
            prompts.append((seen.log_prob() + mirrored.log_prob()).argmax(1))
            parts.append((seen.parts.log_softmax(-1) + mirrored.parts.log_softmax(-1)).argmax(-1))
        return Verdict(torch.cat(prompts), torch.cat(parts))

    def label(self, images: Tensor) -> list[Prompt]:
        """The judge's first choice among all prompts for each image."""
        return self.verdict(images).labels()

    def names(self, images: Tensor, prompt: str) -> list[bool]:
        """Tell for each image whether the judge's first choice among all prompts is this one."""
        wanted = read(prompt)
        return [label == wanted for label in self.label(images)]


def found(answers: Sequence[str]) -> bool:
    """Whether an object has a part by what is said of its views: seen more often than seen to be missing."""
    return answers.count("there") > answers.count("missing")


@functools.cache
def load(folder: Path = JUDGE) -> Judge:
    """Read the shipped judge, once a process.

    Raises:
        FileNotFoundError: there is none in the folder.
    """
    judge = Judge(**json.loads((folder / "config.json").read_text()))
    judge.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return judge.eval().requires_grad_(False)
