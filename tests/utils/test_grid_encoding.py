"""Lookups in grids: against torch's own interpolation, the quick backward pass against the differentiable one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dreamprop.scenes.field import stack
from dreamprop.scenes.hash_grid import TABLE, HashGrid
from dreamprop.utils.grid_encoding import (
    BLOCK,
    PRIMES,
    Part,
    cell,
    dense_rows,
    gather,
    hashed_rows,
    lookup,
    weights,
)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lookup_is_trilinear_interpolation() -> None:
    side, count = 9, BLOCK + 100  # more than a block
    position = torch.rand(3, count, generator=gen()) * (side - 1)
    position[:, 0], position[:, 1] = 0, side - 1  # both ends
    table = torch.randn(side**3, 4, generator=gen(1)).requires_grad_()

    def locate(part: slice) -> Part:
        low, rest = cell(position[:, part], side)
        return dense_rows(low.unbind()[::-1], (1, side, side**2)), weights(rest.unbind()[::-1])

    found = gather(table, locate, count)
    grid = table.t().reshape(1, 4, side, side, side)
    at = (position.flip(0).t() / (side - 1) * 2 - 1).view(1, 1, 1, count, 3)
    expected = F.grid_sample(grid, at, align_corners=True).view(4, count)
    assert torch.allclose(found, expected, atol=1e-5)
    push = torch.randn(4, count, generator=gen(2))
    (a,), (b,) = torch.autograd.grad(found, table, push), torch.autograd.grad(expected, table, push)
    assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_corners_are_counted_with_the_first_axis_fastest(axes: int) -> None:
    low = torch.randint(0, 50, (axes, 7), generator=gen())
    strides, primes = tuple(51**axis for axis in range(axes)), PRIMES[:axes]
    dense, hashed = dense_rows(low.unbind(), strides), hashed_rows(low.unbind(), primes)
    share = torch.rand(axes, 7, generator=gen(1))
    weight = weights(share.unbind())
    for corner in range(2**axes):
        bits = [corner >> axis & 1 for axis in range(axes)]
        vertex = [low[axis] + bit for axis, bit in enumerate(bits)]
        total, mixed, product = torch.zeros(7).long(), torch.zeros(7).long(), torch.ones(7)
        for axis, bit in enumerate(bits):
            total, mixed = total + vertex[axis] * strides[axis], mixed ^ (vertex[axis] * primes[axis])
            product = product * (share[axis] if bit else 1 - share[axis])
        assert torch.equal(dense[:, corner], total) and torch.equal(hashed[:, corner], mixed)
        assert torch.equal(weight[:, corner], product)


def test_the_quick_backward_pass_has_the_bits_of_the_differentiable_one() -> None:
    table = torch.randn(40, 3, generator=gen()).requires_grad_()
    parts = [
        (torch.randint(0, 40, (n, 8), generator=gen(n)), torch.rand(n, 8, generator=gen(n + 1)))
        for n in (500, 0, 300)
    ]
    found = lookup(table, parts)
    push = torch.randn(3, 800, generator=gen(2))
    (quick,) = torch.autograd.grad(found, table, push, retain_graph=True)
    (slow,) = torch.autograd.grad(found, table, push, create_graph=True)
    assert torch.equal(quick, slow) and slow.requires_grad is False
    assert torch.autograd.gradcheck(
        lambda t, w: lookup(t, [(parts[0][0][:5], w)]),
        (table.detach().double().requires_grad_(), parts[0][1][:5].double().requires_grad_()),
    )


class Sizes(TorchDispatchMode):
    """How often operations made a tensor of so many elements or more."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.made = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        fresh = isinstance(out, Tensor) and not any(
            isinstance(a, Tensor) and a.untyped_storage()._cdata == out.untyped_storage()._cdata for a in args
        )
        self.made += fresh and out.numel() >= self.size
        return out


@pytest.mark.parametrize("states", [1, 2])
def test_backward_makes_one_gradient_of_the_whole_table(states: int) -> None:
    field = HashGrid(levels=6, features=2, log2_rows=10, coarsest=10, growth=1.5)
    params = stack([field.init(gen(s))[0] for s in range(states)])
    table = params[TABLE].requires_grad_()
    found = field.encode(table, torch.rand(states, 20, 3, generator=gen(1)) * 2 - 1)
    with Sizes(table.numel()) as sizes:
        (grad,) = torch.autograd.grad(found.sum(), table)
    assert sizes.made == 1
    assert grad.is_contiguous() and grad.abs().sum() > 0
