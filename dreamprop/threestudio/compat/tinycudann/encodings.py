"""tiny-cuda-nn's input encodings as plain differentiable tensor operations.

An encoding is made from the number of its inputs and tiny-cuda-nn's own settings, has its parameters in one flat
vector laid out as there, and maps points of the unit cube to features. All can be differentiated twice.

Legend: N points, D inputs, C = 2^D corners of a cell, F features of a row, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamprop.utils.grid_encoding import PRIMES, dense_rows, hashed_rows, lookup, weights

Settings = Mapping[str, Any]
WORD = 0xFFFFFFFF
"""Indices are 32 bits wide and wrap around."""


class Encoding(Protocol):
    """What the modules ask of an encoding."""

    width: int
    """Number of features of a point."""
    count: int
    """P: number of parameters."""

    def init(self, generator: torch.Generator) -> Tensor:
        """Initial parameters [P] in float32."""

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        """Features [N, width] of points [N, D] in [0, 1], in the type of the parameters."""

    def pad(self, features: Tensor, width: int) -> Tensor:
        """Features [N, width], filled up for a network that takes more of them."""


class Fixed:
    """An encoding without parameters; a network sees 1 in what is filled up, which then works as a bias."""

    width: int
    count = 0

    def init(self, generator: torch.Generator) -> Tensor:
        """No parameters: a tensor [0]."""
        return torch.zeros(0)

    def pad(self, features: Tensor, width: int) -> Tensor:
        """Fill up [N, F] to [N, width] with ones behind the features."""
        return functional.pad(features, (0, width - features.shape[-1]), value=1.0)


class Identity(Fixed):
    """`y = scale x + offset`."""

    def __init__(self, inputs: int, settings: Settings) -> None:
        self.width = inputs
        self.scale, self.offset = float(settings.get("scale", 1.0)), float(settings.get("offset", 0.0))

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Frequency(Fixed):
    """`sin(2^k pi x), cos(2^k pi x)` for k = 0, 1, ..., one input after another (NeRF, arXiv:2003.08934, eq. 4)."""

    def __init__(self, inputs: int, settings: Settings) -> None:
        self.octaves = int(settings.get("n_frequencies", 12))
        self.width = inputs * self.octaves * 2

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        octave = torch.exp2(torch.arange(self.octaves, device=x.device, dtype=x.dtype))
        angle = x[..., None] * octave * math.pi  # [N, D, octaves]
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class SphericalHarmonics(Fixed):
    """Real spherical harmonics of the direction `2 x - 1`, `degree^2` of them, with the Condon-Shortley phase.

    Polynomials in x, y, z by recurrence, as in P.-P. Sloan, Stupid Spherical Harmonics Tricks (2008), appendix A1.
    """

    def __init__(self, inputs: int, settings: Settings) -> None:
        self.degree = int(settings.get("degree", 4))
        if inputs != 3:
            raise ValueError(
                f"SphericalHarmonics must encode 3 inputs, got {inputs}; use Frequency for others"
            )
        if not 1 <= self.degree <= 8:
            raise ValueError(f"SphericalHarmonics degree must be 1 to 8, got {self.degree}; lower it")
        self.width = self.degree**2

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        x, y, z = (2 * x - 1).unbind(-1)
        out: list[Tensor] = [z] * self.width
        cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # of m times the azimuth, times sin(polar)^m
        diagonal = 1.0  # the associated Legendre polynomial P(m, m) without its sin(polar)^m
        for m in range(self.degree):
            before, now = torch.zeros_like(z), torch.full_like(z, diagonal)
            for n in range(m, self.degree):
                norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - m) / math.factorial(n + m))
                norm *= math.sqrt(2) if m else 1
                out[n * n + n + m] = norm * now * cosine
                if m:
                    out[n * n + n - m] = norm * now * sine
                before, now = now, ((2 * n + 1) * z * now - (n + m) * before) / (n - m + 1)
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
            diagonal *= -(2 * m + 1)
        return torch.stack(out, dim=-1)

    def pad(self, features: Tensor, width: int) -> Tensor:
        """Fill up [N, F] to [N, width] with ones before the features, as the library does for this encoding alone."""
        return functional.pad(features, (width - features.shape[-1], 0), value=1.0)


@dataclass(frozen=True)
class Level:
    """One grid of the hierarchy, from coarse to fine."""

    scale: float
    """Cells along a side of the unit cube."""
    factors: tuple[int, ...]
    """What a vertex's coordinates are multiplied by for its row."""
    hashed: bool
    """Whether the products are combined by exclusive or; otherwise they are added."""
    rows: int


class Grid:
    """A hierarchy of grids whose finer ones share rows by a hash (Instant-NGP, arXiv:2201.05989, section 3).

    A level has `min(vertices, 2^log2_hashmap_size)` rows, the first rounded up to a multiple of 8; a level with
    enough rows for its vertices is dense.
    """

    def __init__(self, inputs: int, settings: Settings) -> None:
        if not 1 <= inputs <= len(PRIMES):
            raise ValueError(f"a grid must have 1 to {len(PRIMES)} inputs, got {inputs}")
        named = {"hashgrid": "hash", "grid": "hash", "densegrid": "dense", "tiledgrid": "tiled"}
        kind = str(settings.get("type", named[str(settings["otype"]).lower()])).lower()
        self.kind = {"tile": "tiled"}.get(kind, kind)
        if self.kind not in ("hash", "dense", "tiled"):
            raise ValueError(f"grid type must be Hash, Dense or Tiled, got {settings['type']}")
        if (hashing := str(settings.get("hash", "CoherentPrime"))).lower() != "coherentprime":
            raise ValueError(
                f"grid hash must be CoherentPrime, got {hashing}; others need tiny-cuda-nn itself"
            )
        if settings.get("stochastic_interpolation", False):
            raise ValueError("stochastic_interpolation must be false; it needs tiny-cuda-nn itself")
        self.interpolation = str(settings.get("interpolation", "Linear")).lower()
        if self.interpolation not in ("linear", "smoothstep", "nearest"):
            raise ValueError(
                f"grid interpolation must be Linear, Smoothstep or Nearest, got {self.interpolation}"
            )
        self.inputs, self.features = inputs, int(settings.get("n_features_per_level", 2))
        self.levels = [self._level(number, settings) for number in range(int(settings.get("n_levels", 16)))]
        self.width = len(self.levels) * self.features
        self.count = sum(level.rows for level in self.levels) * self.features

    def _level(self, number: int, settings: Settings) -> Level:
        base = int(settings.get("base_resolution", 16))
        growth = np.log2(np.float32(settings.get("per_level_scale", 2.0)))
        scale = np.exp2(np.float32(number) * growth) * np.float32(base) - np.float32(
            1
        )  # in float32, as in the kernels
        side = math.ceil(float(scale)) + 1
        rows = -(-min(side**self.inputs, WORD // 2) // 8) * 8
        if self.kind == "hash":
            rows = min(rows, 1 << int(settings.get("log2_hashmap_size", 19)))
        elif self.kind == "tiled":
            rows = min(rows, base**self.inputs)
        factors, stride = [], 1
        for _ in range(self.inputs):
            factors.append(stride if stride <= rows else 0)
            stride *= side if stride <= rows else 1
        hashed = self.kind == "hash" and rows < stride
        return Level(float(scale), PRIMES[: self.inputs] if hashed else tuple(factors), hashed, rows)

    def init(self, generator: torch.Generator) -> Tensor:
        """Uniform in +-1e-4, as in the paper; other draws than tiny-cuda-nn's."""
        return (torch.rand(self.count, generator=generator) * 2 - 1) * 1e-4

    def pad(self, features: Tensor, width: int) -> Tensor:
        """Zeros behind the features."""
        return functional.pad(features, (0, width - features.shape[-1]))

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        # split, not sliced: the backward pass then puts the levels' gradients together once
        tables = params.view(-1, self.features).split([level.rows for level in self.levels])
        return torch.cat([self._at(*pair, x) for pair in zip(self.levels, tables, strict=True)], dim=-1)

    def _at(self, level: Level, table: Tensor, x: Tensor) -> Tensor:
        """Features [N, F] of one level."""
        position = x * level.scale + 0.5
        low = position.detach().floor()
        vertex = low.long().unbind(-1)
        rows = hashed_rows(vertex, level.factors) if level.hashed else dense_rows(vertex, level.factors)
        share = position - low
        if self.interpolation == "smoothstep":
            share = share * share * (3 - 2 * share)
        weight = weights(share.unbind(-1))
        if self.interpolation == "nearest":
            rows, weight = rows[:, :1], torch.ones_like(weight[:, :1])
        return lookup(table, [((rows & WORD) % level.rows, weight)]).t()


class Composite:
    """Several encodings side by side, each of its own inputs."""

    def __init__(self, inputs: int, settings: Settings) -> None:
        if str(settings.get("reduction", "Concatenation")).lower() != "concatenation":
            raise ValueError(f"Composite reduction must be Concatenation, got {settings['reduction']}")
        self.parts: list[tuple[slice, Encoding]] = []
        first = 0
        for nested in settings["nested"]:
            # tiny-cuda-nn gives an encoding without a number what the numbered ones leave
            others = sum(int(one.get("n_dims_to_encode", 0)) for one in settings["nested"])
            size = int(nested.get("n_dims_to_encode", inputs - others))
            self.parts.append((slice(first, first + size), encoding(size, nested)))
            first += size
        if first != inputs:
            raise ValueError(f"Composite encodings must take {inputs} inputs together, got {first}")
        self.width = sum(part.width for _, part in self.parts)
        self.count = sum(part.count for _, part in self.parts)

    def init(self, generator: torch.Generator) -> Tensor:
        """Initial parameters [P] of all parts, one after another."""
        return torch.cat([part.init(generator) for _, part in self.parts])

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        own = params.split([part.count for _, part in self.parts])
        return torch.cat([part(x[:, at], p) for (at, part), p in zip(self.parts, own, strict=True)], dim=-1)

    def pad(self, features: Tensor, width: int) -> Tensor:
        """Fill up [N, F] to [N, width] in the way of the last part."""
        return self.parts[-1][1].pad(features, width)


ENCODINGS: dict[str, Callable[[int, Settings], Encoding]] = {
    "Composite": Composite,
    "DenseGrid": Grid,
    "Frequency": Frequency,
    "Grid": Grid,
    "HashGrid": Grid,
    "Identity": Identity,
    "SphericalHarmonics": SphericalHarmonics,
    "TiledGrid": Grid,
}


def encoding(inputs: int, settings: Settings) -> Encoding:
    """The encoding that tiny-cuda-nn's settings name in `otype`, upper and lower case alike."""
    name = str(settings.get("otype", "Identity"))
    for known, make in ENCODINGS.items():
        if known.lower() == name.lower():
            return make(inputs, {**settings, "otype": known})
    raise ValueError(
        f"encoding must be one of {', '.join(ENCODINGS)}, got {name}; others need tiny-cuda-nn itself"
    )
