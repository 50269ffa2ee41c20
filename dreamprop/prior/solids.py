"""Signed distance functions of the procedural world's solids: z is up, the front looks along +x, radius about 0.8.

A solid is a list of parts; a part is a distance function and what colours it: slot 0 or 1 for the colour words of the
prompt, or a fixed RGB for a part whose colour no prompt names (a trunk, a door). Distances may be lower bounds: the
sphere tracer only needs never to overshoot.

Shapes: points p are [..., 3], distances [...].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]
Part = tuple[Distance, int | tuple[float, float, float]]

BROWN = (0.42, 0.26, 0.13)
CREAM = (0.92, 0.86, 0.74)
DARK = (0.16, 0.14, 0.16)
CARROT = (0.95, 0.45, 0.08)
GLASS = (0.45, 0.62, 0.74)


def _length(*components: Tensor) -> Tensor:
    return torch.sqrt(sum((c * c for c in components), torch.zeros(())) + 1e-12)


def sphere(r: float) -> Distance:
    return lambda p: _length(*p.unbind(-1)) - r


def ellipsoid(rx: float, ry: float, rz: float) -> Distance:
    radii = torch.tensor([rx, ry, rz])

    def distance(p: Tensor) -> Tensor:
        k = (p / radii).norm(dim=-1)
        return k * (k - 1) / ((p / radii**2).norm(dim=-1) + 1e-9)

    return distance


def box(hx: float, hy: float, hz: float) -> Distance:
    half = torch.tensor([hx, hy, hz])

    def distance(p: Tensor) -> Tensor:
        q = p.abs() - half
        return q.clamp(min=0).norm(dim=-1) + q.amax(dim=-1).clamp(max=0)

    return distance


def cylinder(r: float, h: float) -> Distance:
    def distance(p: Tensor) -> Tensor:
        x, y, z = p.unbind(-1)
        a, b = _length(x, y) - r, z.abs() - h
        return torch.maximum(a, b).clamp(max=0) + _length(a.clamp(min=0), b.clamp(min=0))

    return distance


def cone(r: float, h: float) -> Distance:
    """Base of radius r at z = -h, tip at z = +h."""
    slant = (4 * h * h + r * r) ** 0.5

    def distance(p: Tensor) -> Tensor:
        x, y, z = p.unbind(-1)
        side = (_length(x, y) * 2 * h + (z - h) * r) / slant
        return torch.maximum(side, -h - z)

    return distance


def pyramid(r: float, h: float) -> Distance:
    """Square base of half side r at z = -h, tip at z = +h."""
    slant = (4 * h * h + r * r) ** 0.5

    def distance(p: Tensor) -> Tensor:
        x, y, z = p.unbind(-1)
        side = (torch.maximum(x.abs(), y.abs()) * 2 * h + (z - h) * r) / slant
        return torch.maximum(side, -h - z)

    return distance


def torus(major: float, minor: float) -> Distance:
    def distance(p: Tensor) -> Tensor:
        x, y, z = p.unbind(-1)
        return _length(_length(x, y) - major, z) - minor

    return distance


def capsule(r: float, h: float) -> Distance:
    def distance(p: Tensor) -> Tensor:
        x, y, z = p.unbind(-1)
        return _length(x, y, z - z.clamp(-h, h)) - r

    return distance


def at(x: float, y: float, z: float, f: Distance) -> Distance:
    offset = torch.tensor([x, y, z])
    return lambda p: f(p - offset)


def scaled(s: float, f: Distance) -> Distance:
    return lambda p: f(p / s) * s


def rounded(r: float, f: Distance) -> Distance:
    """A solid grown by r, which rounds its edges."""
    return lambda p: f(p) - r


def minus(f: Distance, g: Distance) -> Distance:
    return lambda p: torch.maximum(f(p), -g(p))


SOLIDS: dict[str, list[Part]] = {
    "sphere": [(sphere(0.68), 0)],
    "cube": [(box(0.5, 0.5, 0.5), 0)],
    "cone": [(cone(0.6, 0.62), 0)],
    "cylinder": [(cylinder(0.45, 0.6), 0)],
    "torus": [(torus(0.56, 0.22), 0)],
    "capsule": [(capsule(0.34, 0.42), 0)],
    "pyramid": [(pyramid(0.6, 0.52), 0)],
    "mug": [
        (minus(cylinder(0.44, 0.52), at(0, 0, 0.15, cylinder(0.36, 0.52))), 0),
        (at(0, 0.46, 0, lambda p: torus(0.26, 0.075)(p[..., [1, 2, 0]])), 0),
    ],
    "snowman": [
        (at(0, 0, -0.36, sphere(0.44)), 0),
        (at(0, 0, 0.34, sphere(0.32)), 0),
        (at(0.36, 0, 0.34, ellipsoid(0.2, 0.07, 0.07)), CARROT),
        (at(0.27, 0.12, 0.46, sphere(0.055)), DARK),
        (at(0.27, -0.12, 0.46, sphere(0.055)), DARK),
        (at(0.42, 0, -0.22, sphere(0.06)), DARK),
        (at(0.43, 0, -0.44, sphere(0.06)), DARK),
    ],
    "house": [
        (at(0, 0, -0.25, box(0.45, 0.45, 0.35)), 0),
        (at(0, 0, 0.36, pyramid(0.54, 0.28)), BROWN),
        (at(0.45, 0, -0.36, box(0.03, 0.13, 0.24)), DARK),
    ],
    "tree": [
        (at(0, 0, 0.24, sphere(0.46)), 0),
        (at(0, 0, -0.46, cylinder(0.13, 0.32)), BROWN),
    ],
    "table": [
        (at(0, 0, 0.3, box(0.58, 0.58, 0.09)), 0),
        *((at(x, y, -0.2, box(0.08, 0.08, 0.45)), 0) for x in (-0.46, 0.46) for y in (-0.46, 0.46)),
    ],
    "mushroom": [
        (minus(at(0, 0, 0.0, ellipsoid(0.6, 0.6, 0.5)), at(0, 0, -0.6, box(1, 1, 0.6))), 0),
        (at(0, 0, -0.34, cylinder(0.2, 0.4)), CREAM),
    ],
}
"""Every shape word of the vocabulary; mug, snowman and house look different from their backs."""

DETAILED: dict[str, list[Part]] = {
    **{name: SOLIDS[name] for name in ("sphere", "cube", "cone", "cylinder", "torus", "capsule", "pyramid")},
    "snowman": [
        (at(0, 0, -0.42, sphere(0.48)), 0),
        (at(0, 0, 0.34, sphere(0.35)), 0),
        (at(0.4, 0, 0.34, ellipsoid(0.22, 0.08, 0.08)), CARROT),
        (at(0.3, 0.13, 0.47, sphere(0.06)), DARK),
        (at(0.3, -0.13, 0.47, sphere(0.06)), DARK),
        (at(0.46, 0, -0.27, sphere(0.065)), DARK),
        (at(0.47, 0, -0.52, sphere(0.065)), DARK),
    ],
    "mug": [
        (minus(cylinder(0.45, 0.55), at(0, 0, 0.12, cylinder(0.375, 0.55))), 0),
        # a ring thick and wide enough to be seen through, cut where it would reach into the cup
        (minus(at(0, 0.52, 0, lambda p: torus(0.29, 0.085)(p[..., [1, 2, 0]])), cylinder(0.4, 0.6)), 0),
    ],
    "house": [
        (at(0, 0, -0.25, box(0.5, 0.5, 0.38)), 0),
        (at(0, 0, 0.43, pyramid(0.62, 0.3)), BROWN),
        (at(0.5, 0, -0.37, box(0.03, 0.14, 0.26)), DARK),
        (at(0.5, 0.32, -0.15, box(0.03, 0.1, 0.1)), GLASS),
        (at(0.5, -0.32, -0.15, box(0.03, 0.1, 0.1)), GLASS),
        (at(0, 0.5, -0.18, box(0.14, 0.03, 0.12)), GLASS),
        (at(0, -0.5, -0.18, box(0.14, 0.03, 0.12)), GLASS),
    ],
    "tree": [
        (at(0, 0, 0.3, sphere(0.52)), 0),
        (at(0, 0, -0.5, cylinder(0.14, 0.36)), BROWN),
    ],
    "table": [
        (at(0, 0, 0.36, box(0.62, 0.62, 0.07)), 0),
        *((at(x, y, -0.1, box(0.075, 0.075, 0.42)), 0) for x in (-0.52, 0.52) for y in (-0.52, 0.52)),
    ],
    "mushroom": [
        (minus(at(0, 0, 0.05, ellipsoid(0.68, 0.68, 0.58)), at(0, 0, -0.55, box(1, 1, 0.6))), 0),
        (at(0, 0, -0.36, cylinder(0.2, 0.42)), CREAM),
    ],
}  # fmt: skip
"""The solids of the larger pictures: a mug with a handle to put a finger through, a table whose legs are inside the
unit ball, a house with windows; the primitives are the same."""

_HALF_HEIGHT = {
    "sphere": 0.68, "cube": 0.5, "cone": 0.62, "cylinder": 0.6, "torus": 0.22, "capsule": 0.76, "pyramid": 0.52,
}  # fmt: skip


def pair(upper: str, lower: str, relation: str, aligned: bool = False) -> list[Part]:
    """Two primitives: `atop` stacks them along z, `beside` puts them along y; slot 0 is named first.

    With `aligned`, the two of `beside` stand on one floor; otherwise their centres are level.
    """
    size = 0.56
    (f, _), (g, _) = SOLIDS[upper][0], SOLIDS[lower][0]
    top, bottom = _HALF_HEIGHT[upper] * size, _HALF_HEIGHT[lower] * size
    if relation == "atop":
        return [(at(0, 0, bottom, scaled(size, f)), 0), (at(0, 0, -top, scaled(size, g)), 1)]
    floor = -max(top, bottom)
    up, down = (floor + top, floor + bottom) if aligned else (0.0, 0.0)
    return [(at(0, 0.4, up, scaled(size, f)), 0), (at(0, -0.4, down, scaled(size, g)), 1)]


def aligned_pair(upper: str, lower: str, relation: str) -> list[Part]:
    """`pair` with both of `beside` on one floor."""
    return pair(upper, lower, relation, aligned=True)
