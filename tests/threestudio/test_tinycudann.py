"""tiny-cuda-nn in plain torch: values against slow twins, gradients against finite differences."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from dreamprop.threestudio.compat.tinycudann import modules as tcnn

from .draws import uniform

GRID: dict[str, Any] = {
    "otype": "HashGrid",
    "n_levels": 4,
    "n_features_per_level": 2,
    "log2_hashmap_size": 7,
    "base_resolution": 4,
    "per_level_scale": 1.447269237440378,
}
PRIMES = (1, 2654435761, 805459861, 3674653429)


def sides(settings: dict[str, Any], level: int) -> tuple[float, int]:
    """Scale and vertices along a side of a level, in single precision as the kernels have it."""
    growth = np.log2(np.float32(settings["per_level_scale"]))
    scale = np.exp2(np.float32(level) * growth) * np.float32(settings["base_resolution"]) - np.float32(1)
    return float(scale), math.ceil(scale) + 1


def rows(settings: dict[str, Any], level: int, inputs: int) -> int:
    vertices = sides(settings, level)[1] ** inputs
    return min((vertices + 7) // 8 * 8, 2 ** settings["log2_hashmap_size"])


def row_of(settings: dict[str, Any], level: int, vertex: tuple[int, ...]) -> int:
    """The row of a vertex: x + side y + side^2 z if they all fit, else the exclusive or of coordinates times primes."""
    side, size = sides(settings, level)[1], rows(settings, level, len(vertex))
    if side ** len(vertex) <= size:
        return sum(v * side**axis for axis, v in enumerate(vertex)) % size
    hashed = 0
    for v, prime in zip(vertex, PRIMES, strict=False):
        hashed ^= (v * prime) % 2**32
    return hashed % size


def slow_grid(settings: dict[str, Any], params: Tensor, point: list[float]) -> list[float]:
    """One point, one corner at a time."""
    out: list[float] = []
    first, width, inputs = 0, settings["n_features_per_level"], len(point)
    table = params.view(-1, width).tolist()
    for level in range(settings["n_levels"]):
        scale, _ = sides(settings, level)
        place = [scale * p + 0.5 for p in point]
        total = [0.0] * width
        for corner in product((0, 1), repeat=inputs):
            share = 1.0
            for p, bit in zip(place, corner, strict=True):
                rest = p - math.floor(p)
                if settings.get("interpolation") == "Smoothstep":
                    rest = 3 * rest**2 - 2 * rest**3
                share *= rest if bit else 1 - rest
            vertex = tuple(math.floor(p) + bit for p, bit in zip(place, corner, strict=True))
            row = table[first + row_of(settings, level, vertex)]
            total = [t + share * r for t, r in zip(total, row, strict=True)]
        out += total
        first += rows(settings, level, inputs)
    return out


@pytest.mark.parametrize("inputs", [2, 3, 4])
@pytest.mark.parametrize("change", [{}, {"interpolation": "Smoothstep"}, {"n_features_per_level": 4}])
def test_grid_is_the_slow_grid(inputs: int, change: dict[str, Any]) -> None:
    settings = {**GRID, **change}
    module = tcnn.Encoding(inputs, settings, dtype=torch.float32).double()
    module.params.data.copy_(uniform(len(module.params), seed=1) - 0.5)
    points = uniform(20, inputs)
    points[0], points[1] = 0.0, 1.0  # both ends of the cube
    found = module(points)
    want = torch.tensor([slow_grid(settings, module.params, p.tolist()) for p in points], dtype=torch.float64)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_grid_has_the_documented_parameters() -> None:
    """dreamfusion's grid: 16 levels of 2 features with at most 2^19 rows: 12 599 920 numbers."""
    settings = {**GRID, "n_levels": 16, "log2_hashmap_size": 19, "base_resolution": 16}
    module = tcnn.Encoding(3, settings)
    assert module.n_output_dims == 32 and module.n_input_dims == 3
    # 16^3, 23^3 to a multiple of 8, ...: levels 0 to 4 are dense
    dense = [(side**3 + 7) // 8 * 8 for side in (16, 24, 34, 49, 71)]
    assert len(module.params) == 2 * (sum(dense) + 11 * 2**19)
    assert len(module.params) == 12_599_920 and module.params.dtype == torch.float32
    assert module.params.abs().max() <= 1e-4
    assert [name for name, _ in module.named_parameters()] == ["params"]


def test_progressive_band_names_the_grid_otherwise() -> None:
    one = tcnn.Encoding(3, GRID)
    two = tcnn.Encoding(3, {**GRID, "otype": "Grid", "type": "Hash"})
    x = uniform(5, 3).float()
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("kind", ["DenseGrid", "TiledGrid"])
def test_other_grids(kind: str) -> None:
    module = tcnn.Encoding(2, {**GRID, "otype": kind})
    size = (
        4**2 * 4
        if kind == "TiledGrid"
        else sum(rows({**GRID, "log2_hashmap_size": 30}, i, 2) for i in range(4))
    )
    assert len(module.params) == 2 * size
    assert torch.isfinite(module(uniform(5, 2))).all()


def test_gradients_of_the_grid() -> None:
    """First and second derivatives in points and parameters; the points are away from the borders of all cells."""
    module = tcnn.Encoding(3, {**GRID, "n_levels": 2, "log2_hashmap_size": 5}).double()
    params = (uniform(len(module.params), seed=1) - 0.5).requires_grad_()
    points = uniform(60, 3, seed=3)
    for level in range(2):
        rest = (points * sides(GRID, level)[0] + 0.5) % 1
        points = points[((rest > 0.05) & (rest < 0.95)).all(1)]
    points = points[:2].clone().requires_grad_()
    assert len(points) == 2

    def ask(x: Tensor, p: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"params": p}, (x,))

    assert gradcheck(ask, (points, params))
    assert gradgradcheck(ask, (points, params))


def test_normals_from_the_gradient_reach_the_parameters() -> None:
    """As upstream does for normal_type analytic: the loss is of a gradient."""
    module = tcnn.NetworkWithInputEncoding(
        3,
        1,
        GRID,
        {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 1, "activation": "Softplus"},
    )
    module.params.data.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    x = uniform(10, 3).float().requires_grad_()
    (normal,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    normal.square().sum().backward()
    assert module.params.grad is not None and module.params.grad.abs().sum() > 0


@pytest.mark.parametrize("degree", range(1, 9))
def test_spherical_harmonics(degree: int) -> None:
    """Against scipy's complex ones, made real, with the Condon-Shortley phase that tiny-cuda-nn keeps."""
    scipy = pytest.importorskip("scipy.special")
    direction = torch.nn.functional.normalize(uniform(30, 3) - 0.5, dim=-1)
    module = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": degree})
    assert module.n_output_dims == degree**2 and len(module.params) == 0
    module.params.data = module.params.data.double()
    x, y, z = direction.numpy().T
    want = []
    for n in range(degree):
        for m in range(-n, n + 1):
            value = scipy.sph_harm_y(n, abs(m), np.arccos(z), np.arctan2(y, x))
            want.append((value.real if m >= 0 else value.imag) * (math.sqrt(2) if m else 1))
    torch.testing.assert_close(
        module(direction / 2 + 0.5), torch.tensor(np.array(want).T), rtol=0, atol=1e-12
    )


def test_second_derivatives_of_the_others() -> None:
    composite = {
        "otype": "Composite",
        "nested": [{"otype": "Identity", "n_dims_to_encode": 2}, {"otype": "Frequency"}],
    }
    for settings in (
        {"otype": "SphericalHarmonics", "degree": 4},
        {"otype": "Frequency", "n_frequencies": 3},
        {"otype": "Identity", "scale": 2.0, "offset": -1.0},
        composite,
    ):
        module = tcnn.Encoding(3, settings)
        module.params.data = module.params.data.double()
        x = uniform(3, 3).requires_grad_()
        assert gradcheck(module, (x,)) and gradgradcheck(module, (x,))


def test_frequency_keeps_an_input_together() -> None:
    module = tcnn.Encoding(2, {"otype": "Frequency", "n_frequencies": 2})
    x = torch.tensor([[0.1, 0.7]])
    want = [f(2**k * math.pi * v) for v in (0.1, 0.7) for k in range(2) for f in (math.sin, math.cos)]
    torch.testing.assert_close(module(x), torch.tensor([want]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "multiple"), [("FullyFusedMLP", 16), ("CutlassMLP", 8)])
def test_network_is_layers_without_bias_and_ones_where_inputs_are_filled_up(kind: str, multiple: int) -> None:
    module = tcnn.Network(
        9,
        3,
        {
            "otype": kind,
            "n_neurons": 16,
            "n_hidden_layers": 2,
            "activation": "ReLU",
            "output_activation": "Sigmoid",
        },
    )
    last = multiple
    assert len(module.params) == 16 * 16 + 16 * 16 + last * 16
    first, second, third = module.params.split([256, 256, last * 16])
    x = uniform(7, 9).float()
    h = torch.relu(torch.cat([x, torch.ones(7, 7)], 1) @ first.view(16, 16).T)
    h = torch.relu(h @ second.view(16, 16).T)
    want = torch.sigmoid(h @ third.view(last, 16).T)[:, :3]
    torch.testing.assert_close(module(x), want)


def test_network_behind_an_encoding_has_its_parameters_first() -> None:
    network = {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 1}
    module = tcnn.NetworkWithInputEncoding(3, 2, GRID, network, seed=5)
    inner = tcnn.Encoding(3, GRID)
    layers = 16 * 16 + 16 * 16
    assert len(module.params) == layers + len(inner.params)
    inner.params.data.copy_(module.params[layers:])
    x = uniform(4, 3).float()
    features = torch.cat([inner(x), torch.zeros(4, 8)], 1)
    want = (
        torch.relu(features @ module.params[:256].view(16, 16).T) @ module.params[256:layers].view(16, 16).T
    )
    torch.testing.assert_close(module(x), want[:, :2])


@pytest.mark.parametrize("name", sorted(tcnn.ACTIVATIONS))
def test_activations(name: str) -> None:
    """Softplus and squareplus are ten times as sharp as the textbook's."""
    twin = {
        "Softplus": lambda v: math.log1p(math.exp(10 * v)) / 10,
        "Squareplus": lambda v: (10 * v + math.sqrt((10 * v) ** 2 + 4)) / 20,
        "LeakyReLU": lambda v: v if v > 0 else 0.01 * v,
        "ReLU": lambda v: max(v, 0.0),
        "None": lambda v: v,
        "Exponential": math.exp,
        "Sine": math.sin,
        "Sigmoid": lambda v: 1 / (1 + math.exp(-v)),
        "Tanh": math.tanh,
    }[name]
    for v in (-1.3, -0.1, 0.2, 1.1):
        found = tcnn.ACTIVATIONS[name](torch.tensor(v, dtype=torch.float64))
        assert float(found) == pytest.approx(twin(v), abs=1e-9)


def test_seed_is_the_only_randomness() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, other = tcnn.Encoding(3, GRID), tcnn.Encoding(3, GRID), tcnn.Encoding(3, GRID, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.params, two.params) and not torch.equal(one.params, other.params)


def test_types() -> None:
    x = uniform(3, 3)
    half = tcnn.Encoding(3, GRID, dtype=torch.float16)
    assert half(x).dtype == torch.float16 and half.params.dtype == torch.float32
    full = tcnn.Encoding(3, GRID, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network = tcnn.Network(3, 2, {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 1})
        assert full(x).dtype == network(x).dtype == torch.float32
    assert full(x[:0]).shape == (0, 8)
    tcnn.free_temporary_memory()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"otype": "OneBlob"}, "encoding must be one of"),
        ({**GRID, "hash": "Rng"}, "CoherentPrime"),
        ({**GRID, "interpolation": "cubic"}, "Linear"),
        ({"otype": "SphericalHarmonics", "degree": 9}, "1 to 8"),
    ],
)
def test_what_it_cannot_do_is_said(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        tcnn.Encoding(3, settings)
