"""Tensors of a window travel in one copy, and numbers in none; `meta` stands for the other device."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dreamprop.utils.transfer import _pieces, filled, to_device
from tests.copies import Copies

META = torch.device("meta")


@dataclass(frozen=True)
class Inner:
    many: Tensor
    missing: Tensor | None


@dataclass(frozen=True)
class Outer:
    name: str
    flag: Tensor
    inner: Inner
    sizes: tuple[int, int]


def value() -> list[Outer]:
    return [
        Outer("a", torch.tensor([True, False, True]), Inner(torch.arange(5), None), (1, 2)),
        Outer("b", torch.rand(2, 3), Inner(torch.rand(0, 4), torch.rand(7, dtype=torch.float64)), (3, 4)),
    ]


def test_one_copy_brings_everything() -> None:
    before = value()
    with Copies() as copies:
        after = to_device(before, META)
    assert copies.count == 1
    for a, b in zip(before, after, strict=True):
        assert (a.name, a.sizes) == (b.name, b.sizes)
        for x, y in ((a.flag, b.flag), (a.inner.many, b.inner.many), (a.inner.missing, b.inner.missing)):
            assert (x is None and y is None) or (x.shape, x.dtype, y.device) == (y.shape, y.dtype, META)  # type: ignore[union-attr]


def test_nothing_is_copied_to_where_it_is() -> None:
    before = value()
    assert to_device(before, torch.device("cpu")) is before


def test_pieces_of_a_block_hold_their_tensors() -> None:
    tensors = [torch.tensor([True, False]), torch.arange(3), torch.rand(2, 2), torch.rand(0)]
    ends = [16, 48, 64, 64]
    block = torch.zeros(64, dtype=torch.uint8)
    for tensor, piece in zip(tensors, _pieces(block, tensors, ends), strict=True):
        piece.copy_(tensor)
    assert all(torch.equal(t, p) for t, p in zip(tensors, _pieces(block, tensors, ends), strict=True))


@pytest.mark.parametrize("values", [[], [1.5], [0.1, 0.1, 7.0, 0.1]])
def test_numbers_need_no_copy(values: list[float]) -> None:
    with Copies() as copies:
        found = filled(values, META)
    assert copies.count == 0 and found.shape == (len(values),) and found.dtype == torch.float32
    assert torch.equal(filled(values, torch.device("cpu")), torch.tensor(values))
