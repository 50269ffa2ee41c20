"""What the judge is shown and asked: traced views of objects, of pairs and of solids that lack a part.

Legend: N views, P (shape, part) of `counterfactuals.NAMES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamprop.prior.atlas import load_atlas
from dreamprop.prior.counterfactuals import (
    CLEAR,
    HIDDEN,
    MISSING,
    NAMES,
    NONE,
    THERE,
    UNASKED,
    difference,
    lacking,
)
from dreamprop.prior.training import write_tensors
from dreamprop.prior.vocabulary import SHAPES
from dreamprop.prior.world import LARGE, SMALL, Atlas, World, render_many

ENLARGED = replace(SMALL, size=LARGE.size)
"""The small world in larger pictures: what the 32-pixel model has seen is judged as well."""
SEEN = 0.06
"""Share of what is covered that each colour of a prompt must take for it to be told from a view."""

STEMMED = ("tree", "mushroom")
"""Shapes that are balls from where their trunk or stem is hidden."""


@dataclass(frozen=True)
class Views:
    """Factored renders with what is to be said of them."""

    layers: Tensor
    """[N, 6, H, W] uint8"""
    shape: Tensor
    """[N] index into SHAPES of the first object"""
    other: Tensor
    """[N] index into SHAPES of the second object, -1 where there is none"""
    relation: Tensor
    """[N] index into RELATIONS"""
    named: Tensor
    """[N] bool: nothing is lacking, and enough of each object is seen to name it"""
    parts: Tensor
    """[N, P] int8, of UNASKED, HIDDEN, THERE, MISSING"""

    def __getitem__(self, index: Tensor) -> Views:
        """The views of an index."""
        return Views(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def tellable(layers: Tensor, shape: Tensor, pair: Tensor) -> Tensor:
    """Whether views [N, 6, H, W] (uint8) show what their prompt is told by, [N] bool.

    Each object's own colour takes SEEN of what is covered; a trunk or a stem takes a quarter of that.
    """
    covered = (layers[:, 5] > 127).float().sum((1, 2)).clamp(min=1)
    first, second = ((layers[:, slot] > 2).float().sum((1, 2)) / covered for slot in (0, 1))
    fixed = (layers[:, 2:5].amax(1) > 2).float().sum((1, 2)) / covered
    stemmed = torch.isin(shape, torch.tensor([SHAPES.index(s) for s in STEMMED]))
    return (first > SEEN) & ((second > SEEN) | ~pair) & ((fixed > SEEN / 4) | ~stemmed)


def wholes(atlas: Atlas) -> Views:
    """The views of an atlas; of parts nothing is asked."""
    parts = torch.full((len(atlas.shape), len(NAMES)), UNASKED, dtype=torch.int8)
    named = tellable(atlas.layers, atlas.shape, atlas.other >= 0)
    return Views(atlas.layers, atlas.shape, atlas.other, atlas.relation, named, parts)


def lacking_views(seed: int, count: int, world: World = LARGE) -> Views:
    """`count` views of each solid that has parts, of an atlas of that seed, and of its counterfactuals."""
    layers, shapes, answers, entire = [], [], [], []
    counterfactuals = lacking(world.solids)
    for shape in dict.fromkeys(shape for shape, _ in NAMES):
        number = SHAPES.index(shape)

        def render(parts: Sequence, number: int = number) -> Tensor:
            return render_many(parts, count, seed, number, world)[0]

        whole = render(world.solids[shape])
        said = torch.full((count, len(NAMES)), UNASKED, dtype=torch.int8)
        found: list[tuple[int, Tensor, Tensor]] = []
        for column, name in enumerate(NAMES):
            if name[0] != shape:
                continue
            for first, solid in enumerate(counterfactuals[name]):
                without = render(solid)
                differs = torch.cat([
                    difference(a.float() / 255, b.float() / 255)
                    for a, b in zip(whole.split(64), without.split(64), strict=True)
                ])  # fmt: skip
                if first == 0:
                    answer = torch.full((count,), UNASKED, dtype=torch.int8)
                    answer[differs < NONE], answer[differs > CLEAR] = HIDDEN, THERE
                    said[:, column] = answer
                found.append((column, without, differs))
        layers.append(whole)
        answers.append(said)
        for column, without, differs in found:
            answer = said.clone()  # the other parts are as they were
            answer[differs > NONE, column] = UNASKED
            answer[differs > CLEAR, column] = MISSING
            layers.append(without)
            answers.append(answer)
        entire += [True] * count + [False] * (count * len(found))
        shapes += [number] * (count * (1 + len(found)))
    images, kinds = torch.cat(layers), torch.tensor(shapes)
    alone = torch.full_like(kinds, -1)
    named = torch.tensor(entire) & tellable(images, kinds, alone >= 0)
    return Views(images, kinds, alone, torch.zeros_like(alone), named, torch.cat(answers))


def join(several: Sequence[Views]) -> Views:
    """The views of all."""
    return Views(*(torch.cat([getattr(v, n) for v in several]) for n in Views.__dataclass_fields__))


def load_views(folder: Path, seed: int, views: int, pair_views: int, part_views: int) -> Views:
    """Render what the judge is trained on, or read it where an earlier start left it.

    Args:
        folder: of the run.
        seed: of the larger world, whose atlas may be there already; the small one takes the next.
        views: traced views a shape; a quarter as many of the small world.
        pair_views: of each pair and relation; likewise.
        part_views: of each solid with parts and of each of its counterfactuals.
    """
    path = folder / f"parts-{seed}-{part_views}.safetensors"
    if not path.exists():
        print(f"rendering {part_views} views of every solid that lacks a part ...", flush=True)
        made = lacking_views(seed, part_views)
        write_tensors({n: getattr(made, n).contiguous() for n in Views.__dataclass_fields__}, path)
    large = load_atlas(folder, seed, views, pair_views, LARGE)
    small = load_atlas(folder, seed + 1, views // 4, pair_views // 4, ENLARGED)
    return join([wholes(large), wholes(small), Views(**load_file(path))])
