"""The procedural world: solids seen from random cameras, shaded, before a soft background, with a caption each.

A render is kept factored, so that one traced view serves every colour and background:

    picture = main * colour_0 + second * colour_1 + fixed + (1 - alpha) * background

where main, second and fixed already hold coverage times shade. Shapes: layers are [N, 6, H, W] in the order main,
second, fixed (3), alpha; pictures [N, 3, H, W] in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.prior.backgrounds import background, colorful_background, uniform
from dreamprop.prior.solids import DETAILED, SOLIDS, Part, aligned_pair, pair
from dreamprop.prior.vocabulary import COLORS, PRIMITIVES, RELATIONS, SHAPES
from dreamprop.rng import generator
from dreamprop.scenes.cameras import direction as towards

SIZE = 32
"""Side in pixels of a picture of the small world."""

CHUNK = 32
"""Views that are rendered from the same draws."""

PALETTE = torch.tensor(list(COLORS.values()))  # [C, 3]


@dataclass(frozen=True)
class World:
    """What is seen and from where; ranges are drawn from uniformly, angles are in degrees."""

    size: int = SIZE
    """Side of a picture in pixels."""
    elevation: tuple[float, float] = (-10.0, 50.0)
    distance: tuple[float, float] = (2.2, 2.6)
    fovy: tuple[float, float] = (44.0, 50.0)
    fill: tuple[float, float] | None = None
    """How much of the frame the unit ball takes, whatever the camera; None: objects are scaled by 0.9 to 1.1."""
    overhead: float = 38.0
    """Elevation from which a view is called overhead; the front and the back are 90 degrees wide."""
    ambient: tuple[float, float] = (0.35, 0.65)
    """Share of the light that comes from everywhere."""
    solids: Mapping[str, list[Part]] = field(default_factory=lambda: SOLIDS)
    """The parts of each shape word."""
    pair: Callable[[str, str, str], list[Part]] = pair
    """The parts of two primitives in a relation."""
    background: Callable[[int, torch.Generator, int], Tensor] = background
    """Draws backgrounds [n, 3, size, 1 or size]."""


SMALL = World()
"""The world of the 32-pixel model and of its judge."""

LARGE = World(
    size=64,
    elevation=(-20.0, 68.0),
    distance=(1.6, 3.0),
    fovy=(40.0, 60.0),
    fill=(0.7, 1.1),
    overhead=60.0,
    ambient=(0.3, 0.8),
    solids=DETAILED,
    pair=aligned_pair,
    background=colorful_background,
)
"""The world of the latent model: objects of mixed sizes, cameras from below the horizon too, any background, and
threestudio's word for the view from above."""


def view_word(elevation: Tensor, azimuth: Tensor, overhead: float = SMALL.overhead) -> list[str]:
    """Name views as DreamFusion does (arXiv:2209.14988, section 3.2); degrees, azimuth 0 is the front."""
    azimuth = (azimuth + 180) % 360 - 180
    words = []
    for e, a in zip(elevation.tolist(), azimuth.abs().tolist(), strict=True):
        words.append("overhead" if e > overhead else "front" if a < 45 else "back" if a > 135 else "side")
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
    a = azimuth.deg2rad()
    back = towards(elevation, azimuth)  # [N, 3], from the origin to the camera
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
    parts: Sequence[Part], n: int, g: torch.Generator, world: World = SMALL
) -> tuple[Tensor, list[str]]:
    """Render n random views of a solid, anti-aliased by 2 x 2 rays a pixel.

    Returns:
        layers [n, 6, size, size] and the view word of each.
    """
    size = world.size
    elevation, azimuth = uniform(n, *world.elevation, g), uniform(n, -180, 180, g)
    distance, fovy = uniform(n, *world.distance, g), uniform(n, *world.fovy, g)
    origin, direction = cameras(elevation, azimuth, distance, fovy, 2 * size)
    if world.fill is None:
        scale = uniform(n, 0.9, 1.1, g)[:, None, None]
    else:  # a ball of this radius touches the sides of the frame where fill is 1
        frame = distance * (fovy.deg2rad() / 2).sin()
        scale = (uniform(n, *world.fill, g) * frame)[:, None, None]
    shift = 0.05 * torch.randn(n, 1, 3, generator=g).clamp(-1.5, 1.5)
    hit, normal, part = trace(parts, ((origin - shift) / scale).reshape(-1, 3), direction.reshape(-1, 3))

    # a light near the camera, above it more often than not
    light_e = elevation + uniform(n, -10, 45, g)
    light_a = azimuth + uniform(n, -50, 50, g)
    light = towards(light_e, light_a)[:, None]  # [n, 1, 3]
    ambient = uniform(n, *world.ambient, g)[:, None]
    rays = (n, 4 * size * size)
    shade = ambient + (1 - ambient) * (normal.view(*rays, 3) * light).sum(-1).clamp(min=0)

    kinds = [slot if isinstance(slot, int) else 2 for _, slot in parts]
    rgb = torch.tensor([(0.0, 0.0, 0.0) if isinstance(slot, int) else slot for _, slot in parts])
    kind = torch.tensor(kinds)[part].view(rays)
    covered = hit.view(rays).float()
    lit = shade * covered
    fixed = lit[..., None] * rgb[part].view(*rays, 3)
    layers = torch.stack([lit * (kind == 0), lit * (kind == 1), *fixed.unbind(-1), covered], 1)
    return F.avg_pool2d(layers.view(n, 6, 2 * size, 2 * size), 2), view_word(
        elevation, azimuth, world.overhead
    )


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
        # two colours that differ, each moved a little: lights and cameras are not calibrated
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


def build_atlas(seed: int, views: int, pair_views: int = 0, world: World = SMALL) -> Atlas:
    """Render `views` pictures of every shape and `pair_views` of every ordered pair of primitives in each relation."""
    scenes: list[tuple[Sequence[Part], int, int, int, int]] = [
        (world.solids[s], i, -1, 0, views) for i, s in enumerate(SHAPES)
    ]
    if pair_views:
        for i, upper in enumerate(PRIMITIVES):
            for j, lower in enumerate(PRIMITIVES):
                scenes += [
                    (world.pair(upper, lower, word), i, j, k, pair_views) for k, word in enumerate(RELATIONS)
                ]
    layers, rows, words = [], [], []
    for number, (parts, i, j, k, n) in enumerate(scenes):
        rendered, seen = render_many(parts, n, seed, number, world)
        layers.append(rendered)
        rows += [(i, j, k)] * n
        words += seen
    shape, other, relation = torch.tensor(rows).unbind(1)
    return Atlas(torch.cat(layers), shape, other, relation, words)


def render_many(
    parts: Sequence[Part], n: int, seed: int, scene: int, world: World
) -> tuple[Tensor, list[str]]:
    """Render n views of a solid by draws that depend on (seed, scene) alone: layers uint8, and their view words.

    Two solids that are rendered with the same draws are seen from the same cameras under the same light.
    """
    layers, words = [], []
    for chunk in range(math.ceil(n / CHUNK)):
        m = min(CHUNK, n - CHUNK * chunk)
        rendered, seen = render_layers(parts, m, generator(seed, chunk, f"world/{scene}"), world)
        layers.append((rendered * 255).round().to(torch.uint8))
        words += seen
    return torch.cat(layers), words
