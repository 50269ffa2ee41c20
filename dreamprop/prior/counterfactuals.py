"""Solids that lack a part, and which of their views tell: what the judge learns to look for parts from.

A solid and its counterfactual are rendered with the same draws, hence from the same camera under the same light, so
that the two pictures differ by the part alone. Where they differ, the part can be seen; where they do not, it is hidden
and nobody can say whether it is there.

Shapes: layers are [N, 6, H, W] as in `world`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamprop.prior.solids import BROWN, Part, at, box, cylinder, ellipsoid, minus, rounded, sphere

PARTS: dict[str, tuple[str, ...]] = {
    "cube": ("edges",),
    "torus": ("hole",),
    "mug": ("handle",),
    "house": ("roof", "walls", "door"),
    "tree": ("trunk",),
    "table": ("legs",),
    "mushroom": ("stem",),
}
"""The parts that are asked for, by shape. `edges` are sharp ones, a `handle` has an opening, `roof` and `walls` are
plane, `legs` are all four of them."""
NAMES = tuple((shape, part) for shape, parts in PARTS.items() for part in parts)
"""Every (shape, part) in the order of the judge's answers."""
UNASKED, HIDDEN, THERE, MISSING = -1, 0, 1, 2
"""What is to be said of a part; nothing where it is not asked for."""
ANSWERS = ("hidden", "there", "missing")
"""The words for them."""

DIFFERENT = 0.1
"""A pixel differs where any of its layers does by more than this."""
CLEAR, NONE = 0.02, 0.005
"""Two pictures differ where this share of the solid's pixels does, and are alike where less than the second share does;
in between nobody is asked."""


def lacking(solids: Mapping[str, list[Part]]) -> dict[tuple[str, str], list[list[Part]]]:
    """The counterfactuals of each (shape, part) of a world's solids; the first has nothing in the part's place.

    What fills a torus's hole has the colour of slot 1: it may be the ring's or another one.
    """
    ring, _ = solids["torus"][0]
    cup, handle = solids["mug"]
    walls, roof, door, *windows = solids["house"]
    top, *legs = solids["table"]
    stub = at(0, 0.5, 0, lambda p: cylinder(0.3, 0.07)(p[..., [1, 2, 0]]))
    return {
        ("cube", "edges"): [
            [(rounded(0.3, box(0.22, 0.22, 0.22)), 0)],
            [(rounded(0.4, box(0.14, 0.14, 0.14)), 0)],
            [(sphere(0.58), 0)],
            [(ellipsoid(0.62, 0.62, 0.5), 0)],
        ],
        ("torus", "hole"): [
            [(ring, 0), (cylinder(0.5, 0.1), 1)],
            [(ring, 0), (cylinder(0.5, 0.03), 1)],
            [(ring, 0), (ellipsoid(0.5, 0.5, 0.3), 1)],
        ],
        ("mug", "handle"): [[cup], [cup, handle, (minus(stub, cylinder(0.4, 0.6)), 0)]],
        ("house", "roof"): [
            [walls, door, *windows],
            [walls, (at(0, 0, 0.2, ellipsoid(0.6, 0.6, 0.4)), BROWN), door, *windows],
        ],
        ("house", "walls"): [
            [roof, door, *windows],
            [(at(0, 0, -0.25, cylinder(0.5, 0.38)), 0), roof, door, *windows],
            [(at(0, 0, -0.22, ellipsoid(0.56, 0.56, 0.5)), 0), roof, door, *windows],
        ],
        ("house", "door"): [[walls, roof, *windows]],
        ("tree", "trunk"): [solids["tree"][:1]],
        ("table", "legs"): [
            [top],
            [top, legs[0], legs[1]],
            [top, legs[0], legs[3]],
            [top, *legs[:3]],
            [top, (at(0, 0, -0.12, cylinder(0.14, 0.42)), 0)],
            [top, (at(0, 0, -0.12, box(0.46, 0.46, 0.42)), 0)],
        ],
        ("mushroom", "stem"): [solids["mushroom"][:1]],
    }


def disguised(solids: Mapping[str, list[Part]]) -> dict[str, list[Part]]:
    """What a shape is taken for from where the part that tells it is hidden: a tree for a ball, a mushroom for half of
    one, a mug for a cylinder."""
    cup, _ = solids["mug"]
    return {
        "tree": solids["tree"][:1],
        "mushroom": solids["mushroom"][:1],
        "mug": [cup, (cylinder(0.4, 0.52), 0)],
    }


def difference(whole: Tensor, other: Tensor) -> Tensor:
    """Share of a solid's pixels in which the layers of two renders [N, 6, H, W] (uint8) differ, [N]."""
    shares = []
    for a, b in zip(whole.split(64), other.split(64), strict=True):
        changed = ((a.short() - b.short()).abs().amax(1) > 255 * DIFFERENT).float().sum((1, 2))
        shares.append(changed / covered(a))
    return torch.cat(shares)


def covered(layers: Tensor) -> Tensor:
    """How many pixels of renders [N, 6, H, W] (uint8) show a solid, at least one, [N]."""
    return (layers[:, 5] > 127).float().sum((1, 2)).clamp(min=1)
