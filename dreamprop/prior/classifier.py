"""The judge: a small classifier that names the shape and the colour of a picture.

    python -m dreamprop.prior.classifier --out dreamprop/prior/weights/judge

It is not the generator's kin: another architecture (a plain convolutional network with two heads), other seeds of the
world, heavy augmentation. The generator never sees it. R-precision (arXiv:2209.14988, section 4) is how often its first
choice among all single-object prompts is the prompt that was given.

Shapes: images [N, 3, H, W] in [0, 1].
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamprop.prior import JUDGE
from dreamprop.prior.vocabulary import COLORS, SHAPES, parse
from dreamprop.prior.world import SIZE


class Judge(nn.Module):
    """Four convolution stages, pooled, with a head for the shape and one for the colour."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]
        layers += [
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        ]
        self.body = nn.Sequential(*layers)
        self.shape = nn.Linear(5 * widths[-1], len(SHAPES))
        self.color = nn.Linear(5 * widths[-1], len(COLORS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images of any size, resized to the judge's: logits [N, shapes] and [N, colours]."""
        if images.shape[-1] != SIZE:
            images = F.interpolate(images, (SIZE, SIZE), mode="area")
        x = self.body(images * 2 - 1)
        # the mean says how much of a thing there is, the 2 x 2 maxima where
        pooled = torch.cat([x.mean((2, 3)), F.adaptive_max_pool2d(x, 2).flatten(1)], 1)
        return self.shape(pooled), self.color(pooled)

    @torch.no_grad()
    def label(self, images: Tensor) -> list[tuple[str, str]]:
        """Name the (shape, colour) of each image."""
        shape, color = self(images)
        names = list(COLORS)
        return [
            (SHAPES[s], names[c])
            for s, c in zip(shape.argmax(1).tolist(), color.argmax(1).tolist(), strict=True)
        ]

    def names(self, images: Tensor, prompt: str) -> list[bool]:
        """Tell for each image whether the judge's first choice is the prompt's (first) object."""
        wanted = parse(prompt)[0]
        return [label == wanted for label in self.label(images)]


def load(folder: Path = JUDGE) -> Judge:
    """Read the shipped judge.

    Raises:
        FileNotFoundError: there is none in the folder.
    """
    judge = Judge(**json.loads((folder / "config.json").read_text()))
    judge.load_state_dict(
        {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(folder / "model.safetensors").items()
        }
    )
    return judge.eval().requires_grad_(False)
