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

from dreamprop.prior.counterfactuals import (
    CLEAR,
    HIDDEN,
    MISSING,
    NAMES,
    NONE,
    THERE,
    UNASKED,
    covered,
    difference,
    disguised,
    lacking,
)
from dreamprop.prior.solids import Part
from dreamprop.prior.training import write_tensors
from dreamprop.prior.vocabulary import SHAPES
from dreamprop.prior.world import LARGE, SMALL, World, build_atlas, render_many

ENLARGED = replace(SMALL, size=LARGE.size)
"""The small world in larger pictures: what the 32-pixel model has seen is judged as well."""
SEEN, SEEN_OF_TWO = 0.06, 0.2
"""Share of what is covered that the colour of an object must take for it to be told from a view, alone or one of two:
where it is less, a good half of an object is behind the other."""


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


def shown(layers: Tensor, slot: int) -> Tensor:
    """Share of what is covered in views [N, 6, H, W] (uint8) that the colour of a slot takes, [N]."""
    return (layers[:, slot] > 2).float().sum((1, 2)) / covered(layers)


def tells(layers: Tensor, shape: int, seed: int, world: World) -> Tensor:
    """Whether views [N, 6, H, W] (uint8) of a solid, by `render_many`'s draws of (seed, shape), tell which it is, [N]
    bool: its colour is seen, and so is what makes it differ from what it may be taken for."""
    told = shown(layers, 0) > SEEN
    other = disguised(world.solids).get(SHAPES[shape])
    if other:
        told &= difference(layers, render_many(other, len(layers), seed, shape, world)[0]) > CLEAR
    return told


def wholes(seed: int, views: int, pair_views: int, world: World) -> Views:
    """The views of an atlas; of parts nothing is asked."""
    atlas = build_atlas(seed, views, pair_views, world)
    pair = atlas.other >= 0
    parts = torch.full((len(pair), len(NAMES)), UNASKED, dtype=torch.int8)
    named = torch.minimum(shown(atlas.layers, 0), shown(atlas.layers, 1)) > SEEN_OF_TWO
    for shape in range(len(SHAPES)):
        alone = ~pair & (atlas.shape == shape)
        named[alone] = tells(atlas.layers[alone], shape, seed, world)
    return Views(atlas.layers, atlas.shape, atlas.other, atlas.relation, named, parts)


def lacking_views(seed: int, count: int, world: World = LARGE) -> Views:
    """`count` views of each solid that has parts, by the draws of an atlas of that seed, and of its counterfactuals."""
    made = []
    for shape in dict.fromkeys(shape for shape, _ in NAMES):
        number = SHAPES.index(shape)
        columns = [column for column, name in enumerate(NAMES) if name[0] == shape]

        def render(parts: Sequence[Part], number: int = number) -> Tensor:
            return render_many(parts, count, seed, number, world)[0]

        def views(layers: Tensor, named: Tensor, answers: Tensor, number: int = number) -> Views:
            kind = torch.full((count,), number)
            return Views(layers, kind, torch.full_like(kind, -1), torch.zeros_like(kind), named, answers)

        whole = render(world.solids[shape])
        without = {
            column: [render(solid) for solid in lacking(world.solids)[NAMES[column]]] for column in columns
        }
        said = torch.full((count, len(NAMES)), UNASKED, dtype=torch.int8)
        for column in columns:
            differs = difference(whole, without[column][0])
            said[differs < NONE, column], said[differs > CLEAR, column] = HIDDEN, THERE
        made.append(views(whole, tells(whole, number, seed, world), said))
        for column in columns:
            for layers in without[column]:
                differs = difference(whole, layers)
                answers = said.clone()  # the other parts are as they were
                answers[differs > NONE, column] = UNASKED
                answers[differs > CLEAR, column] = MISSING
                made.append(views(layers, torch.zeros(count, dtype=torch.bool), answers))
    return join(made)


def join(several: Sequence[Views]) -> Views:
    """The views of all."""
    return Views(*(torch.cat([getattr(v, n) for v in several]) for n in Views.__dataclass_fields__))


def load_views(folder: Path, seed: int, views: int, pair_views: int, part_views: int) -> Views:
    """Render what the judge is trained on, or read it where an earlier start left it.

    Args:
        folder: of the run.
        seed: of the larger world; the small one takes the next.
        views: traced views a shape; a quarter as many of the small world.
        pair_views: of each pair and relation; likewise.
        part_views: of each solid with parts and of each of its counterfactuals.
    """
    path = folder / f"views-{seed}-{views}-{pair_views}-{part_views}.safetensors"
    if not path.exists():
        print(
            f"rendering {views} views a shape, {pair_views} a pair, {part_views} a lacking one ...",
            flush=True,
        )
        large = wholes(seed, views, pair_views, LARGE)
        small = wholes(seed + 1, views // 4, pair_views // 4, ENLARGED)
        made = join([large, small, lacking_views(seed, part_views)])
        write_tensors({n: getattr(made, n).contiguous() for n in Views.__dataclass_fields__}, path)
    return Views(**load_file(path))
