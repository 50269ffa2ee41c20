"""The procedural world: solids seen from random cameras, shaded, before a soft background, with a caption each.

A render is kept factored, so that one traced view serves every colour and background:

    picture = main * colour_0 + second * colour_1 + fixed + (1 - alpha) * background

where main, second and fixed already hold coverage times shade. Shapes: layers are [N, 6, H, W] in the order main,
second, fixed (3), alpha; pictures [N, 3, H, W] in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.prior.solids import SOLIDS, Part, pair
from dreamprop.prior.vocabulary import COLORS, PRIMITIVES, RELATIONS, SHAPES
from dreamprop.rng import generator

SIZE = 32
"""Side of a picture in pixels."""
ELEVATION = (-10.0, 50.0)
DISTANCE = (2.2, 2.6)
FOVY = (44.0, 50.0)
OVERHEAD = 38.0
"""Elevation in degrees from which a view is called overhead; the front and the back are 90 degrees wide."""

PALETTE = torch.tensor(list(COLORS.values()))  # [C, 3]


def _uniform(n: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=g)


def background(n: int, g: torch.Generator, size: int = SIZE) -> Tensor:
    """Soft backgrounds: a pale or dim tint with a gentle vertical gradient, [n, 3, size, 1]."""
    grey = _uniform(n, 0.25, 0.85, g)[:, None, None]  # [n, 1, 1]
    tint = torch.rand(n, 3, 1, generator=g)
    slope = _uniform(n, -0.12, 0.12, g)[:, None, None]
    ramp = torch.linspace(-1, 1, size)
    return (0.8 * grey + 0.2 * tint + slope * ramp).clamp(0, 1)[..., None]


def view_word(elevation: Tensor, azimuth: Tensor) -> list[str]:
    """Name views as DreamFusion does (arXiv:2209.14988, section 3.2); degrees, azimuth 0 is the front."""
    azimuth = (azimuth + 180) % 360 - 180
    words = []
    for e, a in zip(elevation.tolist(), azimuth.abs().tolist(), strict=True):
        words.append("overhead" if e > OVERHEAD else "front" if a < 45 else "back" if a > 135 else "side")
    return words


def trace(
    parts: Sequence[Part], origin: Tensor, direction: Tensor, steps: int = 40
) -> tuple[Tensor, Tensor, Tensor]:
    """Sphere-trace rays against the union of the parts.

    Args:
        origin, direction: [N, 3], directions of unit length.
    Returns:
        hit [N] bool, normal [N, 3], part index [N].
    """

    def distance(p: Tensor) -> Tensor:
        return torch.stack([f(p) for f, _ in parts]).amin(dim=0)

    # rays enter the unit ball that holds every solid, or miss it
    b = (origin * direction).sum(-1)
    inside = b * b - (origin * origin).sum(-1) + 1.0
    alive = (inside > 0).nonzero()[:, 0]
    t = torch.zeros(len(origin))
    t[alive] = -b[alive] - inside[alive].sqrt()
    hit = torch.zeros(len(origin), dtype=torch.bool)
    for _ in range(steps):
        p = origin[alive] + t[alive, None] * direction[alive]
        d = distance(p)
        near = d < 2e-3
        hit[alive[near]] = True
        t[alive] += d
        alive = alive[~near & ((p * direction[alive]).sum(-1) < 1.0)]
        if len(alive) == 0:
            break
    surface = (origin + t[:, None] * direction)[hit]
    corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]]) * 2e-3
    normal = torch.zeros_like(origin)
    normal[hit] = F.normalize(sum(c * distance(surface + c)[:, None] for c in corners), dim=-1)
    part = torch.zeros(len(origin), dtype=torch.long)
    part[hit] = torch.stack([f(surface) for f, _ in parts]).argmin(dim=0)
    return hit, normal, part


def cameras(
    elevation: Tensor, azimuth: Tensor, distance: Tensor, fovy: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Rays of pinhole cameras that look at the origin, z up, in degrees: origins, unit directions [N, size², 3]."""
    e, a = elevation.deg2rad(), azimuth.deg2rad()
    back = torch.stack(
        [e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], -1
    )  # [N, 3], from the origin to the camera
    right = torch.stack([-a.sin(), a.cos(), torch.zeros_like(a)], -1)
    up = torch.linalg.cross(back, right)
    half = (fovy.deg2rad() / 2).tan()[:, None, None]  # [N, 1, 1]
    pixel = (torch.arange(size) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(-pixel, pixel, indexing="ij")
    u, v = u.reshape(1, -1, 1) * half, v.reshape(1, -1, 1) * half
    direction = F.normalize(u * right[:, None] + v * up[:, None] - back[:, None], dim=-1)
    origin = (back * distance[:, None])[:, None].expand_as(direction)
    return origin, direction


def render_layers(
    parts: Sequence[Part], n: int, g: torch.Generator, size: int = SIZE
) -> tuple[Tensor, list[str]]:
    """Render n random views of a solid, anti-aliased by 2 x 2 rays a pixel.

    Returns:
        layers [n, 6, size, size] and the view word of each.
    """
    elevation, azimuth = _uniform(n, *ELEVATION, g), _uniform(n, -180, 180, g)
    origin, direction = cameras(
        elevation, azimuth, _uniform(n, *DISTANCE, g), _uniform(n, *FOVY, g), 2 * size
    )
    scale = _uniform(n, 0.9, 1.1, g)[:, None, None]
    shift = 0.05 * torch.randn(n, 1, 3, generator=g).clamp(-1.5, 1.5)
    hit, normal, part = trace(parts, ((origin - shift) / scale).reshape(-1, 3), direction.reshape(-1, 3))

    # a lamp near the camera, above it more often than not
    lamp_e = elevation + _uniform(n, -10, 45, g)
    lamp_a = azimuth + _uniform(n, -50, 50, g)
    e, a = lamp_e.deg2rad(), lamp_a.deg2rad()
    lamp = torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], -1)[:, None]  # [n, 1, 3]
    ambient = _uniform(n, 0.35, 0.65, g)[:, None]
    rays = (n, 4 * size * size)
    shade = ambient + (1 - ambient) * (normal.view(*rays, 3) * lamp).sum(-1).clamp(min=0)

    kinds = [slot if isinstance(slot, int) else 2 for _, slot in parts]
    rgb = torch.tensor([(0.0, 0.0, 0.0) if isinstance(slot, int) else slot for _, slot in parts])
    kind = torch.tensor(kinds)[part].view(rays)
    covered = hit.view(rays).float()
    lit = shade * covered
    fixed = lit[..., None] * rgb[part].view(*rays, 3)
    layers = torch.stack([lit * (kind == 0), lit * (kind == 1), *fixed.unbind(-1), covered], 1)
    return F.avg_pool2d(layers.view(n, 6, 2 * size, 2 * size), 2), view_word(elevation, azimuth)


def compose(layers: Tensor, first: Tensor, second: Tensor, backdrop: Tensor) -> Tensor:
    """Colour factored renders: layers [N, 6, H, W], colours [N, 3] each, backdrop [N, 3, H, W] or broadcastable."""
    main, other, fixed, alpha = layers[:, :1], layers[:, 1:2], layers[:, 2:5], layers[:, 5:]
    picture = main * first[..., None, None] + other * second[..., None, None] + fixed + (1 - alpha) * backdrop
    return picture.clamp(0, 1)


@dataclass(frozen=True)
class Atlas:
    """Factored renders with what is to be said of them; colours and backgrounds are drawn anew at every use."""

    layers: Tensor
    """[N, 6, H, W] uint8"""
    shape: Tensor
    """[N] index into SHAPES of the first object"""
    other: Tensor
    """[N] index into SHAPES of the second object, -1 where there is none"""
    relation: Tensor
    """[N] index into RELATIONS"""
    views: list[str]

    def draw(self, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """Draw n pictures [n, 3, H, W] in [0, 1], the colour index [n] of the first object, and captions."""
        index = torch.randint(len(self.layers), (n,), generator=g)
        layers = self.layers[index].float() / 255
        # two colours that differ, each moved a little: lamps and cameras are not calibrated
        first = torch.randint(len(COLORS), (n,), generator=g)
        second = (first + 1 + torch.randint(len(COLORS) - 1, (n,), generator=g)) % len(COLORS)
        jitter = 0.03 * torch.randn(2, n, 3, generator=g)
        pictures = compose(
            layers,
            PALETTE[first] + jitter[0],
            PALETTE[second] + jitter[1],
            background(n, g, layers.shape[-1]),
        )
        captions = [
            self._caption(int(i), int(a), int(b), g) for i, a, b in zip(index, first, second, strict=True)
        ]
        return pictures, first, captions

    def _caption(self, i: int, first: int, second: int, g: torch.Generator) -> str:
        names = list(COLORS)
        swap, view = torch.rand(2, generator=g).tolist()

        def phrase(color: int, shape: int) -> str:
            return f"{SHAPES[shape]} {names[color]}" if swap < 0.1 else f"{names[color]} {SHAPES[shape]}"

        text = phrase(first, int(self.shape[i]))
        if self.other[i] >= 0:
            text += f" {RELATIONS[int(self.relation[i])]} {phrase(second, int(self.other[i]))}"
        return text + (f", {self.views[i]} view" if view < 0.6 else "")


def build_atlas(seed: int, views: int, pair_views: int = 0, size: int = SIZE) -> Atlas:
    """Render `views` pictures of every shape and `pair_views` of every ordered pair of primitives in each relation."""
    scenes: list[tuple[Sequence[Part], int, int, int, int]] = [
        (SOLIDS[s], i, -1, 0, views) for i, s in enumerate(SHAPES)
    ]
    if pair_views:
        for i, upper in enumerate(PRIMITIVES):
            for j, lower in enumerate(PRIMITIVES):
                scenes += [
                    (pair(upper, lower, word), i, j, k, pair_views) for k, word in enumerate(RELATIONS)
                ]
    layers, rows, words = [], [], []
    for number, (parts, i, j, k, n) in enumerate(scenes):
        for part in range(math.ceil(n / 32)):
            m = min(32, n - 32 * part)
            rendered, seen = render_layers(parts, m, generator(seed, part, f"world/{number}"), size)
            layers.append((rendered * 255).round().to(torch.uint8))
            rows += [(i, j, k)] * m
            words += seen
    shape, other, relation = torch.tensor(rows).unbind(1)
    return Atlas(torch.cat(layers), shape, other, relation, words)
