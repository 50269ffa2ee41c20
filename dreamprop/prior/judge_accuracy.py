"""Measure the judge on fresh renders: what it names, what it confuses, and which parts it finds.

    python -m dreamprop.prior.judge_accuracy

The renders are of a seed that nothing was trained on. A view does not always tell its prompt (a house from above shows
no wall, a small sphere may stand behind a large one), so what is named right is told of all and of the tellable ones.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamprop.prior import JUDGE, classifier
from dreamprop.prior.augmentation import augmented
from dreamprop.prior.classifier import Judge, prompt_index
from dreamprop.prior.counterfactuals import ANSWERS, MISSING, NAMES, THERE, UNASKED
from dreamprop.prior.judge_views import Views, lacking_views, wholes
from dreamprop.prior.vocabulary import COLORS, all_prompts
from dreamprop.prior.world import LARGE, PALETTE, SMALL, World, compose
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json

SEED = 9_000_011
"""Of the renders."""
OBJECT = 24
"""Views that an object is judged by."""


def pictures_of(views: Views, world: World, g: torch.Generator, hard: bool = False) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, H, W] of views, plain or as augmented as in training, and the colours of both slots [2, N]."""
    n = len(views.shape)
    colors = torch.randint(len(COLORS), (2, n), generator=g)
    done = []
    for layers, color, other in zip(
        views.layers.split(128), colors[0].split(128), colors[1].split(128), strict=True
    ):
        paint = layers.float() / 255, PALETTE[color], PALETTE[other]
        back = world.background(len(color), g, world.size)
        done.append(
            augmented(*paint, torch.rand(len(color), generator=g) < 0.5, g) if hard else compose(*paint, back)
        )
    return torch.cat(done), colors


@torch.no_grad()
def naming(jury: Judge, views: Views, world: World, hard: bool = False) -> dict[str, Any]:
    """How often the first choice among all prompts is right, of one object and of two, and what is confused."""
    pictures, colors = pictures_of(views, world, generator(SEED, 0, "prior/evaluate"), hard)
    wanted = prompt_index(views.shape, colors[0], views.other, colors[1], views.relation)
    chosen = jury.verdict(pictures).prompts
    right = chosen == wanted
    figures: dict[str, Any] = {}
    for name, kind in (("single", views.other < 0), ("pairs", views.other >= 0)):
        if kind.any():
            told = kind & views.named
            figures[name] = {
                "views": int(kind.sum()), "right": _share(right[kind]),
                "tellable": int(told.sum()), "right_of_tellable": _share(right[told]),
            }  # fmt: skip
    prompts = all_prompts()
    wrong: Counter[str] = Counter()
    for i in (views.named & ~right).nonzero()[:, 0].tolist():
        wrong[_confusion(prompts[int(wanted[i])], prompts[int(chosen[i])])] += 1
    return {**figures, "confused": dict(wrong.most_common(20))}


def _confusion(wanted: classifier.Prompt, chosen: classifier.Prompt) -> str:
    """What was taken for what, in the words that differ."""
    if wanted.relation != chosen.relation:
        return f"{wanted.relation or 'alone'} as {chosen.relation or 'alone'}"
    words = [
        f"{a} as {b}"
        for one, two in zip(wanted.objects, chosen.objects, strict=True)
        for a, b in zip(one, two, strict=True)
        if a != b
    ]
    return ", ".join(sorted(words))


@torch.no_grad()
def parts(jury: Judge, views: Views, world: World, hard: bool = False) -> dict[str, Any]:
    """What is said of each part by what is to be said, how often it is right whether the part is there, and how often
    objects of OBJECT views are decided right.

    Whether a part that is not there is hidden or missing is not always in a picture: a mug without a handle looks the
    same from all around.
    """
    pictures, _ = pictures_of(views, world, generator(SEED, 1, "prior/evaluate"), hard)
    said = jury.verdict(pictures).parts
    figures: dict[str, Any] = {}
    for column, (shape, part) in enumerate(NAMES):
        truth, answer = views.parts[:, column], said[:, column]
        table = {
            ANSWERS[t]: {ANSWERS[a]: int(((truth == t) & (answer == a)).sum()) for a in range(len(ANSWERS))}
            for t in range(len(ANSWERS))
        }
        asked = truth != UNASKED
        figures[f"{shape}/{part}"] = {
            "right": _share(((truth == THERE) == (answer == THERE))[asked]),
            **table,
        }
    return figures | {"objects": _objects(views, said)}


def _objects(views: Views, said: Tensor) -> dict[str, str]:
    """Whole and lacking objects that are decided right, of those there are, by part."""
    count = OBJECT * (len(views.shape) // OBJECT)
    figures = {}
    for column, (shape, part) in enumerate(NAMES):
        right = total = 0
        groups = zip(
            views.parts[:count].split(OBJECT), views.named[:count].split(OBJECT), said[:count].split(OBJECT),
            strict=True,
        )  # fmt: skip
        for truth, whole, answers in groups:
            lacks = bool((truth[:, column] == MISSING).any())
            if lacks or (whole.any() and (truth[:, column] > 0).any()):
                words = [ANSWERS[a] for a in answers[:, column].tolist()]
                right += classifier.found(words) != lacks
                total += 1
        figures[f"{shape}/{part}"] = f"{right} of {total}"
    return figures


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def measure(jury: Judge, views: int, pair_views: int, part_objects: int) -> dict[str, Any]:
    """All figures, on `views` renders a shape, `pair_views` a pair and relation, and objects of OBJECT views."""
    large = wholes(SEED, views, pair_views, LARGE)
    small = wholes(SEED, max(views // 3, 1), max(pair_views // 3, 1), SMALL)
    figures = {
        "large world": naming(jury, large, LARGE),
        "large world, augmented": naming(jury, large, LARGE, hard=True),
        "small world, 32 pixels": naming(jury, small, SMALL),
    }
    if part_objects:
        lacking = lacking_views(SEED, OBJECT * part_objects)
        figures["parts"] = parts(jury, lacking, LARGE)
        figures["parts, augmented"] = parts(jury, lacking, LARGE, hard=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description="measure the judge on fresh renders",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--views", type=int, default=60, help="fresh renders a shape")
    parser.add_argument("--pair-views", type=int, default=6, help="fresh renders of a pair and relation")
    parser.add_argument(
        "--objects", type=int, default=2, help="fresh objects of each solid that lacks a part"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()
    figures = measure(classifier.load(args.judge), args.views, args.pair_views, args.objects)
    for name, found in figures.items():
        print(f"{name}: {json.dumps(found)}", flush=True)
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
